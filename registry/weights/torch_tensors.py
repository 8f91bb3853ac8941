"""The tensors in what a pickle of torch makes: their names, types, shapes and places, without torch.

Names follow `state_dict()`: the keys and positions on the way to a tensor, joined by dots; of a module its parameters,
its buffers that are meant to be saved, and its parts. Where a dict has exactly one entry that holds tensors deeper down
and its key is one of WRAPPERS, that key is left out, so that {"state_dict": {"w": …}, "epoch": 3} names "w" as the
state dict alone does. With more of them (a model and its optimizer) all names keep their full path.

A tensor is listed if its elements lie in the file as they are and in C order. What is not is counted: other strides,
sparse and quantized ones, complex ones that are stored as their conjugate, types that weight files here do not have,
names that are too long or taken. Of tensors that share bytes, the first by place and then by the order of the pickle
is listed; those that are equal to it (tied weights) are its aliases. What lies under more than 64 others is not seen.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from registry.weights.pickle_values import Call, Global, Persistent
from registry.weights.safetensors import MAX_NAME, MAX_RANK, MAX_TENSORS
from registry.weights.tensors import BITS, Tensor

WRAPPERS = frozenset(
    {"ema", "ema_state_dict", "model", "model_ema", "model_state", "model_state_dict", "module", "net", "network"}
    | {"params", "params_ema", "state_dict", "weights"}
)
"""Keys under which training scripts keep the weights beside what else they keep."""
_MAX_DEPTH = 64
_MAX_WRAPPERS = 8
_MAX_WALKED = 500_000
_MAX_BYTES = 2**63 - 1
_INNER = (dict, list, tuple, Call)
_BAD_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_STORAGES = {
    "BFloat16Storage": "BF16",
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ComplexFloatStorage": "C64",
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "ShortStorage": "I16",
}
_DTYPES = {
    "bfloat16": "BF16",
    "bool": "BOOL",
    "complex64": "C64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "uint8": "U8",
}

Place = Callable[[str], tuple[int, int] | None]
"""Offset and size of a storage's bytes in the file, by its key; None if they do not lie there as they are."""


class TooManyTensorsError(Exception):
    """There are more tensors than the registry takes in one file, or too much that may hold some."""


@dataclass(frozen=True, slots=True)
class Found:
    """Tensors by offset, none overlapping; other names of theirs; how many are not listed.

    `storages` has the name of the first tensor in each storage, by the storage's key.
    """

    tensors: tuple[Tensor, ...]
    aliases: Mapping[str, str]
    unlisted: int
    storages: Mapping[str, str]


def find(root: object, place: Place) -> Found:
    """Every tensor that can be reached from `root`. Raises TooManyTensorsError."""
    named: dict[str, tuple[Tensor, str]] = {}
    unlisted = 0
    barren: set[int] = set()
    for count, (name, call) in enumerate(_calls(_starts(root, barren), barren)):
        if count == MAX_TENSORS:
            raise TooManyTensorsError
        found = None if name in named or not _is_name(name) else _tensor(name, call, place)
        if found is None:
            unlisted += 1
        else:
            named[name] = found
    return _apart(named.values(), unlisted)


def _apart(found: Iterable[tuple[Tensor, str]], unlisted: int) -> Found:
    """Of tensors that share bytes only the first."""
    kept: list[Tensor] = []
    aliases: dict[str, str] = {}
    storages: dict[str, str] = {}
    end = 0
    # a stable sort keeps the pickle's order
    for tensor, storage in sorted(found, key=lambda each: (each[0].offset, each[0].size > 0)):
        if not tensor.size or tensor.offset >= end:
            kept.append(tensor)
            storages.setdefault(storage, tensor.name)
            end = max(end, tensor.offset + tensor.size)
            continue
        first = kept[-1]
        if (first.offset, first.dtype, first.shape) == (tensor.offset, tensor.dtype, tensor.shape):
            aliases[tensor.name] = first.name
        else:
            unlisted += 1
    return Found(tuple(kept), aliases, unlisted, storages)


def _starts(root: object, barren: set[int]) -> list[tuple[str, object]]:
    """What to walk: the root under no name, or what its wrapper holds, and then the tensors beside that."""
    loose: list[tuple[str, object]] = []
    for _ in range(_MAX_WRAPPERS):
        holders: list[tuple[object, object]] = []
        for key, value in _entries(root):
            if not _is_tensor(value) and _holds(value, barren):
                holders.append((key, value))
                if len(holders) > 1:
                    break
        if len(holders) != 1 or holders[0][0] not in WRAPPERS:
            break
        loose += [(str(key), value) for key, value in _entries(root) if _is_tensor(value)]
        root = holders[0][1]
    return [("", root), *loose]


def _entries(root: object) -> Iterator[tuple[object, object]]:
    """Of a dict, its entries; of anything else, none."""
    return _named(root) if isinstance(root, dict) or (isinstance(root, Call) and root.items) else iter(())


def _holds(value: object, barren: set[int]) -> bool:
    """True if a tensor can be reached; what leads to none is noted in `barren`, so that it is searched once."""
    seen: set[int] = set()
    if next(_calls([("", value)], barren, seen), None) is not None:
        return True
    barren |= seen
    return False


def _calls(
    starts: list[tuple[str, object]], barren: set[int], seen: set[int] | None = None
) -> Iterator[tuple[str, Call]]:
    """Every call that would make a tensor, by its name, in the pickle's order. What is shared is walked once."""
    seen = set() if seen is None else seen
    levels: list[tuple[str, Iterator[tuple[object, object]]]] = [("", iter(starts))]
    while levels:
        prefix, children = levels[-1]
        key, value = next(children, (None, None))
        if key is None:
            levels.pop()
        elif isinstance(value, Call) and _is_tensor(value):
            yield f"{prefix}{key}" or "tensor", value
        elif id(value) not in seen and id(value) not in barren:
            if len(seen) + len(barren) == _MAX_WALKED:
                raise TooManyTensorsError
            seen.add(id(value))
            name = f"{prefix}{key}"
            if len(levels) <= _MAX_DEPTH and len(name) <= MAX_NAME:
                levels.append((f"{name}." if name else "", _children(value)))


def _children(value: object) -> Iterator[tuple[object, object]]:
    """What may hold tensors, or be one, by key or position."""
    if isinstance(value, dict):
        yield from _named(value)
    elif isinstance(value, list | tuple):
        yield from _counted(value)
    elif isinstance(value, Call):
        state = value.state
        if isinstance(state, dict) and isinstance(state.get("_modules"), dict | Call) and "_parameters" in state:
            yield from _module(state)
            return
        yield from _named(value.items)
        yield from _counted(value.appended)
        yield from _counted(value.args)
        for part in state if isinstance(state, tuple) else (state,):  # a pair where the class has slots
            yield from _named(part)


def _module(state: dict[object, object]) -> Iterator[tuple[object, object]]:
    """What `state_dict()` of a module takes, in its order."""
    passing = state.get("_non_persistent_buffers_set")
    if isinstance(passing, Call) and isinstance(passing.args, tuple) and passing.args:
        passing = passing.args[0]  # a set, in protocols that have no instruction for one
    left_out = {each for each in passing if isinstance(each, str)} if isinstance(passing, list) else set()
    yield from _named(state["_parameters"])
    yield from ((name, buffer) for name, buffer in _named(state.get("_buffers")) if name not in left_out)
    yield from _named(state["_modules"])


def _named(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Call):
        value = value.items
    entries = value if isinstance(value, dict) else {}
    return ((k, child) for k, child in entries.items() if isinstance(child, _INNER) and isinstance(k, str | int))


def _counted(value: object) -> Iterator[tuple[object, object]]:
    values = value if isinstance(value, list | tuple) else ()
    return ((position, child) for position, child in enumerate(values) if isinstance(child, _INNER))


def _is_name(name: str) -> bool:
    return len(name) <= MAX_NAME and not _BAD_NAME.search(name)


def _is_tensor(value: object) -> bool:
    """True of a call to one of torch's functions that make a tensor or a parameter."""
    if not isinstance(value, Call) or not isinstance(value.function, Global):
        return False
    return value.function.module in {"torch._utils", "torch._tensor"} and value.function.name.startswith("_rebuild_")


def _tensor(name: str, call: Call, place: Place) -> tuple[Tensor, str] | None:
    """The tensor that the call would make, and the key of its storage; None if it is not to be listed."""
    made = _plain(call)
    if made is None:
        return None
    storage, start, shape, strides, dtype, metadata = made
    if not isinstance(storage, Persistent) or metadata:
        return None
    kind, key = _storage(storage.id)
    dtype = kind if dtype is None else _DTYPES.get(dtype.name) if isinstance(dtype, Global) else None
    where = place(key)
    dimensions, steps = _integers(shape), _integers(strides)
    if not isinstance(dtype, str) or where is None or dimensions is None or steps is None or type(start) is not int:
        return None
    width = BITS[dtype] // 8
    if not _in_order(dimensions, steps) or prod(each or 1 for each in dimensions) * width > _MAX_BYTES:
        return None
    size = prod(dimensions) * width
    offset = where[0] + (start * width if size else 0)
    if start < 0 or offset + size > sum(where):
        return None
    return Tensor(name, dtype, dimensions, offset, size), key


def _plain(call: Call) -> tuple[object, object, object, object, object, object] | None:
    """Storage, offset, shape, strides, dtype (None: the storage's) and metadata, from under what wraps them."""
    for _ in range(4):
        function, args = call.function, call.args
        if not isinstance(function, Global) or not isinstance(args, tuple):
            return None
        match function.name, args:
            case ("_rebuild_tensor", (storage, start, shape, strides)):
                return storage, start, shape, strides, None, None
            case ("_rebuild_tensor_v2", (storage, start, shape, strides, _, _, *metadata)):
                return storage, start, shape, strides, None, metadata and metadata[0]
            case ("_rebuild_tensor_v3", (storage, start, shape, strides, _, _, dtype, *metadata)):
                return storage, start, shape, strides, dtype, metadata and metadata[0]
            case ("_rebuild_from_type_v2", (inner, _, tuple() as rest, _)):
                call = Call(inner, rest)
            case ("_rebuild_parameter" | "_rebuild_parameter_with_state", (Call() as inner, *_)):
                call = inner
            case _:
                return None
    return None


def _storage(id: object) -> tuple[str | None, str]:  # noqa: A002 - the word for it
    """The dtype and the key that a storage's id names: ("storage", type, key, device, elements)."""
    match id:
        case ("storage", Global(name=kind), str() as key, _, _):
            return _STORAGES.get(kind), key
    return None, ""


def _integers(value: object) -> tuple[int, ...] | None:
    """A shape or its strides: a tuple, or a torch.Size of one."""
    if isinstance(value, Call) and isinstance(value.args, tuple) and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, tuple) or len(value) > MAX_RANK:
        return None
    if any(type(each) is not int or not 0 <= each < 2**63 for each in value):
        return None
    return value


def _in_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """True if the elements lie in C order without gaps; where there is only one, its stride says nothing."""
    if len(shape) != len(strides):
        return False
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length not in {1, 0} and stride != step:
            return 0 in shape
        step *= length
    return True
