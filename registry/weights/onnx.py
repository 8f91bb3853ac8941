"""The tensors of an ONNX model, found by walking its protobuf in bounds. Only the graph's initializers are listed.

    ModelProto ─ ir_version, producer, opsets, metadata_props
      └─ graph ─ inputs, outputs, nodes (stepped over, with their subgraphs)
           └─ initializer ─ name, data_type, dims and   raw_data           an array as it is
                                                        float_data, …      one too if packed and of fixed width
                                                        external_data      an array in another file of the version

Strings, arrays of varints and sparse tensors are not listed: their bytes are no array. A model that takes more than
4,096 reads or 16 MiB of other bytes than arrays to walk is stored without looking inside. Where external data lies is
checked by `external.py`, which knows the other files.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

from registry.weights.errors import (
    OnnxDtypeError,
    OnnxDuplicateNameError,
    OnnxExternalError,
    OnnxNameError,
    OnnxNotModelError,
    OnnxShapeError,
    OnnxSizeMismatchError,
    OnnxSyntaxError,
    OnnxTooManyTensorsError,
    OnnxTruncatedError,
)
from registry.weights.protobuf import BYTES, VARINT, OverBudgetError, Scanner, ShortFileError, WireError
from registry.weights.tensors import Header, Tensor

MAX_TENSORS = 100_000
MAX_RANK = 32
MAX_NAME = 1024
"""Bytes of an initializer's name."""
MAX_TEXT = 1024
"""Bytes of a metadata text that are kept."""
MAX_PROPERTIES = 100
"""Entries of `metadata_props` that are kept."""
_MAX_LOCATION = 4096
_MAX_VALUES = 10_000
_SHOWN_VALUES = 16
_MAX_BYTES = 2**63 - 1
_BAD_NAME = re.compile("[\x00-\x1f\x7f-\x9f]")
_WHOLE = re.compile("[0-9]{1,18}")

_DTYPES = MappingProxyType(
    {
        1: ("F32", 32),
        2: ("U8", 8),
        3: ("I8", 8),
        4: ("U16", 16),
        5: ("I16", 16),
        6: ("I32", 32),
        7: ("I64", 64),
        8: ("STRING", 0),
        9: ("BOOL", 8),
        10: ("F16", 16),
        11: ("F64", 64),
        12: ("U32", 32),
        13: ("U64", 64),
        14: ("C64", 64),
        15: ("C128", 128),
        16: ("BF16", 16),
        17: ("F8_E4M3", 8),
        18: ("F8_E4M3FNUZ", 8),
        19: ("F8_E5M2", 8),
        20: ("F8_E5M2FNUZ", 8),
        21: ("U4", 4),
        22: ("I4", 4),
        23: ("F4", 4),
        24: ("F8_E8M0", 8),
        25: ("U2", 2),
        26: ("I2", 2),
        27: ("F6_E2M3", 6),
        28: ("F6_E3M2", 6),
    }
)
"""By ONNX's number: the dtype, and the bits of an element."""
_STRING = 8
_ARRAY_FIELDS = MappingProxyType({4: {1, 14}, 10: {11, 15}})  # float_data, double_data: of which data types
_TYPED_FIELDS = frozenset({4, 5, 6, 7, 10, 11})


@dataclass(slots=True)
class _Initializer:
    """What was found of a TensorProto; `data` and `packed` are ranges of the file."""

    name: bytes = b""
    kind: int = 0
    shape: list[int] = field(default_factory=list)
    data: tuple[int, int] | None = None
    packed: tuple[int, int] | None = None
    is_typed: bool = False
    is_external: bool = False
    external: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Model:
    """What was found so far."""

    tensors: list[Tensor] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    elsewhere: dict[str, list[Tensor]] = field(default_factory=dict)
    version: int = 0
    has_graph: bool = False
    opsets: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    inputs: list[tuple[str, str]] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)


def header(size: int, read: Callable[[int, int], bytes]) -> Header | None:
    """What an ONNX model of `size` bytes says about itself; None if it takes too much reading to find out.

    Raises the leaf of OnnxError that belongs to the first rule broken.
    """
    scanner, model = Scanner(size, read), _Model()
    try:
        _model(scanner, model)
    except OverBudgetError:
        return None
    except ShortFileError as error:
        raise OnnxTruncatedError(f"The file is cut short: {error}.") from None
    except WireError as error:
        raise OnnxSyntaxError(f"The file is not an ONNX model: {error}.") from None
    if not model.has_graph or not model.version:
        missing = "ir_version" if model.has_graph else "graph"
        raise OnnxNotModelError(f"The message in the file has no {missing}, which every ONNX model has.")
    model.tensors.sort(key=lambda tensor: (tensor.offset, tensor.size, tensor.name))
    first = model.tensors[0].offset if model.tensors else size
    elsewhere = {location: tuple(tensors) for location, tensors in model.elsewhere.items()}
    return Header(tuple(model.tensors), _metadata(model), first, elsewhere=elsewhere)


def _model(scanner: Scanner, model: _Model) -> None:
    for number, kind, value, stop in scanner.fields(0, scanner.size):
        if number == 1:
            _expect(kind, VARINT, "ir_version")
            model.version = value
        elif number in {2, 3}:
            _expect(kind, BYTES, "producer")
            model.texts["producer" if number == 2 else "producer_version"] = _text(scanner, value, stop)
        elif number == 7:
            _expect(kind, BYTES, "graph")
            if model.has_graph:
                raise OnnxSyntaxError("The model has two graphs.")
            model.has_graph = True
            _graph(scanner, model, value, stop)
        elif number == 8:
            _expect(kind, BYTES, "opset_import")
            model.opsets.append(_opset(scanner, value, stop))
        elif number == 14 and len(model.properties) < MAX_PROPERTIES:
            _expect(kind, BYTES, "metadata_props")
            key, text = _entry(scanner, value, stop)
            model.properties.setdefault(key, text)


def _graph(scanner: Scanner, model: _Model, start: int, end: int) -> None:
    for number, kind, value, stop in scanner.fields(start, end):
        if number == 2:
            _expect(kind, BYTES, "name of the graph")
            model.texts["graph"] = _text(scanner, value, stop)
        elif number == 5:
            _expect(kind, BYTES, "initializer")
            if len(model.names) == MAX_TENSORS:
                raise OnnxTooManyTensorsError(f"The model has more than {MAX_TENSORS:,} initializers.")
            _add(model, _initializer(scanner, value, stop))
        elif number in {11, 12}:
            _expect(kind, BYTES, "input or output")
            values = model.inputs if number == 11 else model.outputs
            if len(values) < _MAX_VALUES:
                values.append(_value(scanner, value, stop))


def _initializer(scanner: Scanner, start: int, end: int) -> _Initializer:
    found = _Initializer()
    for number, kind, value, stop in scanner.fields(start, end):
        if number == 1:
            found.shape += [value] if kind == VARINT else scanner.packed(value, stop, limit=MAX_RANK + 1)
        elif number == 2:
            _expect(kind, VARINT, "data_type")
            found.kind = value
        elif number == 8:
            _expect(kind, BYTES, "name of an initializer")
            found.name = scanner.content(value, stop, limit=MAX_NAME + 1)
        elif number == 9:
            _expect(kind, BYTES, "raw_data")
            _once(found, is_new=found.data is None)
            found.data = value, stop
        elif number in _TYPED_FIELDS:
            is_array = kind == BYTES and number in _ARRAY_FIELDS and not found.is_typed
            found.packed = (value, stop) if is_array and found.kind in _ARRAY_FIELDS[number] else None
            found.is_typed = True
        elif number == 13:
            _expect(kind, BYTES, "external_data")
            key, text = _entry(scanner, value, stop, strict=True)
            found.external[key] = text
        elif number == 14:
            _expect(kind, VARINT, "data_location")
            found.is_external = value == 1
        if len(found.shape) > MAX_RANK:
            message = f"Initializer {_shown(found.name)} has more than {MAX_RANK} dimensions."
            raise OnnxShapeError(message)
    _once(found, is_new=(found.data is not None) + found.is_typed + found.is_external <= 1)
    return found


def _once(found: _Initializer, *, is_new: bool) -> None:
    if not is_new:
        raise OnnxSizeMismatchError(f"Initializer {_shown(found.name)} has its data twice.")


def _add(model: _Model, found: _Initializer) -> None:
    """Check an initializer and list it, here or elsewhere, if its bytes are an array."""
    name = _name(found.name)
    if name in model.names:
        raise OnnxDuplicateNameError(f"Two initializers have the name {name!r}.", tensor=name)
    model.names.add(name)
    if found.kind not in _DTYPES:
        raise OnnxDtypeError(f"Initializer {name!r} has data type {found.kind:,}, which is unknown.", tensor=name)
    if found.kind == _STRING:
        return
    dtype, bits = _DTYPES[found.kind]
    size = (_elements(name, found.shape) * bits + 7) // 8
    shape = tuple(found.shape)
    if found.is_external:
        location, offset = _place(name, size, found.external)
        model.elsewhere.setdefault(location, []).append(Tensor(name, dtype, shape, offset, size))
        return
    held = found.data or found.packed
    if held is None:
        return
    start, stop = held
    if stop - start != size:
        message = f"Initializer {name!r} has {stop - start:,} bytes, not the {size:,} of {dtype} {list(shape)}."
        raise OnnxSizeMismatchError(message, tensor=name)
    model.tensors.append(Tensor(name, dtype, shape, start, size))


def _name(data: bytes) -> str:
    try:
        name = data.decode("utf-8") if len(data) <= MAX_NAME else ""
    except UnicodeDecodeError:
        name = ""
    if not name or _BAD_NAME.search(name):
        message = f"The initializer name {_shown(data)} is not UTF-8 text of 1 to {MAX_NAME:,} bytes."
        raise OnnxNameError(message)
    return name


def _elements(name: str, shape: list[int]) -> int:
    """The product skips zeros, so that it overflows whatever their place."""
    total = 1
    for dimension in shape:
        if dimension >> 63:
            raise OnnxShapeError(f"Initializer {name!r} has a negative dimension.", tensor=name)
        total *= dimension or 1
        if total * 16 > _MAX_BYTES:
            message = f"The shape of initializer {name!r} asks for more bytes than 64 bits can count."
            raise OnnxShapeError(message, tensor=name)
    return 0 if 0 in shape else total


def _place(name: str, size: int, external: dict[str, str]) -> tuple[str, int]:
    """The file and the offset of external data."""
    location = external.get("location", "")
    offset, length = external.get("offset", "0"), external.get("length", str(size))
    if not location or not _WHOLE.fullmatch(offset) or not _WHOLE.fullmatch(length):
        message = (
            f"The external data of initializer {name!r} has no location, or an offset or length that is no number."
        )
        raise OnnxExternalError(message, tensor=name)
    if int(length) != size:
        message = f"Initializer {name!r} has {int(length):,} bytes of external data, not the {size:,} that it needs."
        raise OnnxSizeMismatchError(message, tensor=name)
    return location, int(offset)


def _entry(scanner: Scanner, start: int, end: int, *, strict: bool = False) -> tuple[str, str]:
    """A StringStringEntryProto. `strict` refuses text that is too long or not UTF-8 instead of cutting it."""
    texts = ["", ""]
    for number, kind, value, stop in scanner.fields(start, end):
        if number in {1, 2}:
            _expect(kind, BYTES, "key or value of an entry")
            texts[number - 1] = _strict(scanner, value, stop) if strict else _text(scanner, value, stop)
    return texts[0], texts[1]


def _strict(scanner: Scanner, start: int, stop: int) -> str:
    data = scanner.content(start, stop, limit=_MAX_LOCATION + 1)
    try:
        text = data.decode("utf-8") if len(data) <= _MAX_LOCATION else None
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise OnnxExternalError(
            f"The external data {_shown(data)} is not UTF-8 text of at most {_MAX_LOCATION:,} bytes."
        )
    return text


def _text(scanner: Scanner, start: int, stop: int) -> str:
    """Text for people, of which a part is kept."""
    text = scanner.content(start, stop, limit=MAX_TEXT).decode("utf-8", "replace")
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if stop - start <= MAX_TEXT else f"{text}… ({stop - start:,} bytes)"


def _opset(scanner: Scanner, start: int, end: int) -> str:
    domain, version = "", 0
    for number, kind, value, stop in scanner.fields(start, end):
        if number == 1:
            _expect(kind, BYTES, "domain of an opset")
            domain = _text(scanner, value, stop)
        elif number == 2:
            _expect(kind, VARINT, "version of an opset")
            version = value
    return f"{domain or 'ai.onnx'} {version}"


def _value(scanner: Scanner, start: int, end: int) -> tuple[str, str]:
    """Name of a ValueInfoProto, and its type if that is a tensor: `F32[1, 3, height, width]`."""
    name = described = ""
    for number, kind, value, stop in scanner.fields(start, end):
        if number == 1:
            _expect(kind, BYTES, "name of a value")
            name = _text(scanner, value, stop)
        elif number == 2:
            _expect(kind, BYTES, "type of a value")
            for inner, inner_kind, inner_value, inner_stop in scanner.fields(value, stop):
                if inner == 1 and inner_kind == BYTES:
                    described = _tensor_type(scanner, inner_value, inner_stop)
    return name, described


def _tensor_type(scanner: Scanner, start: int, end: int) -> str:
    dtype, dimensions = "", ""
    for number, kind, value, stop in scanner.fields(start, end):
        if number == 1 and kind == VARINT:
            dtype = _DTYPES.get(value, ("?", 0))[0]
        elif number == 2 and kind == BYTES:
            shown = [
                _dimension(scanner, inner_value, inner_stop)
                for inner, inner_kind, inner_value, inner_stop in scanner.fields(value, stop)
                if inner == 1 and inner_kind == BYTES
            ]
            dimensions = f"[{', '.join(shown[: MAX_RANK + 1])}]"
    return dtype + dimensions


def _dimension(scanner: Scanner, start: int, end: int) -> str:
    shown = "?"
    for number, kind, value, stop in scanner.fields(start, end):
        if number == 1 and kind == VARINT:
            shown = str(value)
        elif number == 2 and kind == BYTES:
            shown = _text(scanner, value, min(stop, value + 64))
    return shown


def _metadata(model: _Model) -> dict[str, str]:
    """The exporter's own entries, and ours under `onnx.`, which win."""
    inputs = [each for each in model.inputs if each[0] not in model.names]
    ours = {
        "ir_version": str(model.version),
        "opset": ", ".join(model.opsets[:_SHOWN_VALUES]),
        "inputs": _listed(inputs),
        "outputs": _listed(model.outputs),
    }
    return model.properties | {f"onnx.{key}": text for key, text in (ours | model.texts).items() if text}


def _listed(values: list[tuple[str, str]]) -> str:
    shown = [f"{name} {described}".strip() for name, described in values[:_SHOWN_VALUES]]
    return ", ".join(shown) + (f", … ({len(values):,})" if len(values) > _SHOWN_VALUES else "")


def _expect(kind: int, wanted: int, what: str) -> None:
    if kind != wanted:
        raise WireError(f"the {what} is of another type than it must be")


def _shown(data: bytes) -> str:
    """Bytes nobody has checked yet, short enough for a sentence."""
    return ascii((data if len(data) <= 64 else data[:61] + b"...").decode("utf-8", "replace"))
