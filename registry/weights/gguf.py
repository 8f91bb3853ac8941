"""The header of a GGUF file, read strictly and in bounds.

    ┌────────┬─────────┬────────────┬─────────┬─────────────────────┬──────────────────────┬─────────┬──────────────┐
    │ "GGUF" │ version │ tensors: n │ keys: k │ k × key, type, value │ n × name, shape,     │ padding │ tensors, each│
    │        │ u32     │ u64        │ u64     │                     │ type, offset         │         │ aligned      │
    └────────┴─────────┴────────────┴─────────┴─────────────────────┴──────────────────────┴─────────┴──────────────┘

Versions 2 and 3, little-endian. Version 1, whose lengths are shorter and which nothing has written since 2023, and
big-endian files are relatives that are stored without looking inside. Shapes are given in the order that numpy uses,
the reverse of the file's. Element types carry the names that safetensors has for them; quantized ones, ggml's.

A tokenizer makes headers of 5 to 10 MiB, so they are read in pieces that double. A count is checked against the bytes
that it needs at least before anything is read for it: no small file takes long.
"""

import re
import struct
from collections.abc import Callable
from types import MappingProxyType

from registry.weights.errors import (
    GgufAlignmentError,
    GgufBlockError,
    GgufDtypeError,
    GgufDuplicateKeyError,
    GgufDuplicateTensorError,
    GgufHeaderTooLargeError,
    GgufMagicError,
    GgufMetadataError,
    GgufNameError,
    GgufOverflowError,
    GgufOverlapError,
    GgufRankError,
    GgufTooManyTensorsError,
    GgufTruncatedError,
    GgufVersionError,
)
from registry.weights.tensors import Header, Tensor

MAX_HEADER = 16 * 2**20
"""Bytes before the first tensor."""
MAX_TENSORS = 100_000
MAX_RANK = 32
MAX_NAME = 1024
"""Bytes of a tensor's name or a metadata key."""
MAX_KEYS = 10_000
MAX_TEXT = 1024
"""Bytes of a metadata text that is kept as it is; of a longer one only the length is."""
MAX_DEPTH = 4
"""Arrays inside arrays."""
_FIRST_READ = 64 * 2**10
_MAX_BYTES = 2**63 - 1
_DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = "general.alignment"
_TEXT, _ARRAY = 8, 9

_BLOCKS = MappingProxyType(
    {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 40),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        31: ("Q4_0_4_4", 32, 18),  # 31 to 33 and 36 to 38 are gone from ggml; files of 2024 have them
        32: ("Q4_0_4_8", 32, 18),
        33: ("Q4_0_8_8", 32, 18),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        36: ("IQ4_NL_4_4", 32, 18),
        37: ("IQ4_NL_4_8", 32, 18),
        38: ("IQ4_NL_8_8", 32, 18),
        39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
        41: ("Q1_0", 128, 18),
    }
)
"""By ggml's number: the dtype, the elements of a block, and its bytes."""

_SCALARS = MappingProxyType(
    {
        0: ("u8", struct.Struct("<B")),
        1: ("i8", struct.Struct("<b")),
        2: ("u16", struct.Struct("<H")),
        3: ("i16", struct.Struct("<h")),
        4: ("u32", struct.Struct("<I")),
        5: ("i32", struct.Struct("<i")),
        6: ("f32", struct.Struct("<f")),
        7: ("bool", struct.Struct("<?")),
        10: ("u64", struct.Struct("<Q")),
        11: ("i64", struct.Struct("<q")),
        12: ("f64", struct.Struct("<d")),
    }
)
_U32 = _SCALARS[4][1]
_U64 = _SCALARS[10][1]
_BAD_NAME = re.compile("[\x00-\x1f\x7f-\x9f]")
_MIN_ENTRY = 12  # bytes of a metadata entry with an empty key: the key's length, the value's type
_MIN_TENSOR = 24  # the name's length, the rank, the type, the offset


class _Cursor:
    """A position in the header, whose bytes are read as they are needed; `inside` names the part it is in."""

    __slots__ = ("_read", "_size", "data", "inside", "position")

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read = size, read
        self.data = bytearray()
        self.inside = "the counts"
        self.position = 0

    def reserve(self, size: int) -> int:
        """Where the next `size` bytes would end. Raises if the file or the limit ends before; reads nothing."""
        end = self.position + size
        if end > self._size:
            raise GgufTruncatedError(f"The file ends after {self._size:,} bytes, within {self.inside}.")
        if end > MAX_HEADER:
            message = f"The header is larger than the {MAX_HEADER:,} bytes allowed, which {self.inside} would exceed."
            raise GgufHeaderTooLargeError(message)
        return end

    def take(self, size: int) -> int:
        """Step over `size` bytes, which then are in `data`; returns where they start."""
        start, end = self.position, self.position + size
        if end > len(self.data):
            end = self.reserve(size)
            held = len(self.data)
            wanted = min(max(end, 2 * held, _FIRST_READ), self._size, MAX_HEADER) - held
            self.data += self._read(held, wanted)
            if len(self.data) < end:
                raise GgufTruncatedError(f"The file ends after {len(self.data):,} bytes, within {self.inside}.")
        self.position = end
        return start

    def number(self, form: struct.Struct) -> int:
        value: int = form.unpack_from(self.data, self.take(form.size))[0]
        return value

    def text(self) -> bytes:
        length = self.number(_U64)
        start = self.take(length)
        return bytes(self.data[start : start + length])


def header(size: int, read: Callable[[int, int], bytes]) -> Header | None:
    """What a GGUF file of `size` bytes says about itself; None if it is version 1 or big-endian.

    Raises the leaf of GgufError that belongs to the first rule broken.
    """
    cursor = _Cursor(size, read)
    if size < 8 or cursor.data[cursor.take(4) : 4] != b"GGUF":
        raise GgufMagicError("The file does not begin with the four letters GGUF and a version.")
    version = cursor.number(_U32)
    if version == 1 or version in {1 << 24, 2 << 24, 3 << 24}:
        return None
    if version not in {2, 3}:
        raise GgufVersionError(f"The file says it is GGUF version {version:,}, which is none of 1 to 3.")
    tensor_count, key_count = cursor.number(_U64), cursor.number(_U64)
    if tensor_count > MAX_TENSORS:
        message = f"The header says it lists {tensor_count:,} tensors, more than the {MAX_TENSORS:,} allowed."
        raise GgufTooManyTensorsError(message)
    if key_count > MAX_KEYS:
        message = f"The header says it has {key_count:,} metadata keys, more than the {MAX_KEYS:,} allowed."
        raise GgufMetadataError(message)
    cursor.inside = "the metadata"
    cursor.reserve(key_count * _MIN_ENTRY)
    metadata, alignment = _metadata(cursor, key_count)
    cursor.inside = f"the list of {tensor_count:,} tensors"
    cursor.reserve(tensor_count * _MIN_TENSOR)
    tensors = _tensors(cursor, tensor_count, alignment)
    start = cursor.position + -cursor.position % alignment
    placed = [Tensor(each.name, each.dtype, each.shape, start + each.offset, each.size) for each in tensors]
    placed.sort(key=lambda tensor: (tensor.offset, tensor.size, tensor.name))
    _check_layout(placed, size)
    return Header(tuple(placed), metadata, min(start, size))


def _metadata(cursor: _Cursor, count: int) -> tuple[dict[str, str], int]:
    """Every key with its value as a short text, and the alignment."""
    found: dict[str, str] = {}
    alignment = _DEFAULT_ALIGNMENT
    for index in range(count):
        cursor.inside = f"metadata key {index + 1:,} of {count:,}"
        key = _key(cursor.text())
        if key in found:
            raise GgufDuplicateKeyError(f"The metadata has the key {key!r} twice.")
        cursor.inside = f"the value of {key!r}"
        kind = cursor.number(_U32)
        found[key] = _value(cursor, key, kind)
        if key == _ALIGNMENT_KEY:
            alignment = _alignment(found[key], kind)
    return found, alignment


def _key(data: bytes) -> str:
    try:
        key = data.decode("utf-8") if 0 < len(data) <= MAX_NAME else ""
    except UnicodeDecodeError:
        key = ""
    if not key or _BAD_NAME.search(key):
        message = f"The metadata key {_shown(data)} is not UTF-8 text of 1 to {MAX_NAME:,} bytes."
        raise GgufMetadataError(message)
    return key


def _alignment(text: str, kind: int) -> int:
    alignment = int(text) if kind == 4 else 0
    if alignment.bit_count() != 1:
        raise GgufAlignmentError(f"The {_ALIGNMENT_KEY} is {text!r}, which is not a power of two as u32.")
    return alignment


def _value(cursor: _Cursor, key: str, kind: int) -> str:
    """A number or a short text as it is; of a long text or an array, what it is."""
    if kind in _SCALARS:
        return _scalar(cursor, kind)
    if kind == _TEXT:
        data = cursor.text()
        try:
            text = data.decode("utf-8") if len(data) <= MAX_TEXT else ""
        except UnicodeDecodeError:
            text = ""
        return text if text and "\0" not in text else f"({len(data):,} bytes of text)" if data else ""
    if kind == _ARRAY:
        return _array(cursor, key, depth=1)
    raise GgufMetadataError(f"The value of {key!r} is of type {kind:,}, which GGUF does not have.")


def _scalar(cursor: _Cursor, kind: int) -> str:
    name, form = _SCALARS[kind]
    (value,) = form.unpack_from(cursor.data, cursor.take(form.size))
    if name == "f32":
        return f"{value:.7g}"
    return str(value).lower()


def _array(cursor: _Cursor, key: str, *, depth: int) -> str:
    """Step over an array; returns its length and type."""
    if depth > MAX_DEPTH:
        raise GgufMetadataError(f"The value of {key!r} has arrays more than {MAX_DEPTH} deep.")
    kind, count = cursor.number(_U32), cursor.number(_U64)
    if kind in _SCALARS:
        name, form = _SCALARS[kind]
        cursor.take(count * form.size)
        return f"({count:,} × {name})"
    if kind == _TEXT:
        cursor.reserve(count * 8)
        _skip_texts(cursor, count)
        return f"({count:,} × text)"
    if kind == _ARRAY:
        cursor.reserve(count * 12)
        for _ in range(count):
            _array(cursor, key, depth=depth + 1)
        return f"({count:,} × array)"
    raise GgufMetadataError(f"The value of {key!r} is an array of type {kind:,}, which GGUF does not have.")


def _skip_texts(cursor: _Cursor, count: int) -> None:
    """A tokenizer's lists have some 100,000 texts: this loop is most of the time that a header takes."""
    unpack, data = _U64.unpack_from, cursor.data
    position, held = cursor.position, len(data)
    for _ in range(count):
        end = position + 8
        if end <= held:
            end += unpack(data, position)[0]
        if end > held:
            cursor.position = position
            cursor.take(cursor.number(_U64))
            end, held = cursor.position, len(data)
        position = end
    cursor.position = position


def _tensors(cursor: _Cursor, count: int, alignment: int) -> list[Tensor]:
    """Every tensor in the order of the header, its offset counted from the first tensor's place."""
    found: list[Tensor] = []
    names: set[str] = set()
    for index in range(count):
        cursor.inside = f"the entry of tensor {index + 1:,} of {count:,}"
        name = _name(cursor.text())
        if name in names:
            raise GgufDuplicateTensorError(f"The header lists tensor {name!r} twice.", tensor=name)
        names.add(name)
        cursor.inside = f"the entry of tensor {name!r}"
        rank = cursor.number(_U32)
        if rank > MAX_RANK:
            raise GgufRankError(f"Tensor {name!r} has {rank:,} dimensions, more than {MAX_RANK}.", tensor=name)
        start = cursor.take(8 * rank)
        shape = struct.unpack_from(f"<{rank}Q", cursor.data, start)[::-1]
        dtype, size = _measured(name, shape, cursor.number(_U32))
        offset = cursor.number(_U64)
        if offset % alignment:
            message = f"Tensor {name!r} is at {offset:,}, which is no multiple of the alignment {alignment:,}."
            raise GgufAlignmentError(message, tensor=name)
        found.append(Tensor(name, dtype, shape, offset, size))
    return found


def _name(data: bytes) -> str:
    try:
        name = data.decode("utf-8") if 0 < len(data) <= MAX_NAME else ""
    except UnicodeDecodeError:
        name = ""
    if not name or _BAD_NAME.search(name):
        message = f"The tensor name {_shown(data)} is not UTF-8 text of 1 to {MAX_NAME:,} bytes."
        raise GgufNameError(message)
    return name


def _measured(name: str, shape: tuple[int, ...], kind: int) -> tuple[str, int]:
    """The dtype and the bytes of a tensor. The product skips zeros, so that it overflows whatever their place."""
    if kind not in _BLOCKS:
        raise GgufDtypeError(f"Tensor {name!r} is of ggml type {kind:,}, which is unknown.", tensor=name)
    dtype, elements, size = _BLOCKS[kind]
    row = shape[-1] if shape else 1
    if row % elements:
        message = (
            f"A row of tensor {name!r} has {row:,} elements, which are not whole blocks of {elements} for {dtype}."
        )
        raise GgufBlockError(message, tensor=name)
    total = 1
    for dimension in shape:
        total *= dimension or 1
        if total * size > _MAX_BYTES:
            message = f"The shape of tensor {name!r} asks for more bytes than 64 bits can count."
            raise GgufOverflowError(message, tensor=name)
    return dtype, 0 if 0 in shape else total // elements * size


def _check_layout(tensors: list[Tensor], file_size: int) -> None:
    """No two tensors share bytes, and none ends after the file."""
    end, previous = 0, ""
    for tensor in tensors:
        if tensor.offset + tensor.size > file_size:
            message = (
                f"Tensor {tensor.name!r} ends at byte {tensor.offset + tensor.size:,}, "
                f"but the file has only {file_size:,}."
            )
            raise GgufTruncatedError(message, tensor=tensor.name)
        if not tensor.size:
            continue
        if tensor.offset < end:
            message = f"Tensor {tensor.name!r} overlaps tensor {previous!r} at byte {tensor.offset:,} of the file."
            raise GgufOverlapError(message, tensor=tensor.name)
        end, previous = tensor.offset + tensor.size, tensor.name


def _shown(data: bytes) -> str:
    """Bytes nobody has checked yet, short enough for a sentence."""
    return ascii((data if len(data) <= 64 else data[:61] + b"...").decode("utf-8", "replace"))
