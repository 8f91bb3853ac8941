"""The header of a safetensors file, read strictly and in bounds.

    ┌──────────────┬───────────────────────────────┬──────────────────────────────┐
    │ n: u64, LE   │ n bytes of JSON               │ tensors, back to back        │
    └──────────────┴───────────────────────────────┴──────────────────────────────┘
    {"__metadata__": {text: text}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}

What is accepted here is a subset of what the safetensors library accepts: that one lets duplicate names, unknown
fields and nulls pass, and takes headers of 100 MB. Every rule has an error of its own that names the tensor.
"""

import re
from typing import NoReturn

from registry.weights.errors import (
    SafetensorsDtypeError,
    SafetensorsDuplicateKeyError,
    SafetensorsEncodingError,
    SafetensorsError,
    SafetensorsHeaderTooLargeError,
    SafetensorsHoleError,
    SafetensorsMetadataError,
    SafetensorsMissingFieldError,
    SafetensorsNameError,
    SafetensorsNotObjectError,
    SafetensorsOffsetsError,
    SafetensorsOverflowError,
    SafetensorsOverlapError,
    SafetensorsRankError,
    SafetensorsShapeError,
    SafetensorsSizeMismatchError,
    SafetensorsSyntaxError,
    SafetensorsTooManyTensorsError,
    SafetensorsTrailingBytesError,
    SafetensorsTruncatedError,
    SafetensorsUnknownFieldError,
)
from registry.weights.json_scan import ScanError, Scanner
from registry.weights.tensors import BITS, Header, Tensor

__all__ = [
    "MAX_HEADER",
    "MAX_METADATA_KEYS",
    "MAX_NAME",
    "MAX_RANK",
    "MAX_TENSORS",
    "PREFIX",
    "Header",
    "Tensor",
    "header_size",
    "parse",
]

PREFIX = 8
"""Bytes before the JSON: its length."""
MAX_HEADER = 16 * 2**20
"""Bytes of JSON; a model of 10,000 tensors needs about 1 MB."""
MAX_TENSORS = 100_000
MAX_RANK = 32
"""Dimensions of a tensor: what every numpy can hold."""
MAX_NAME = 1024
"""Characters of a tensor's name."""
MAX_METADATA_KEYS = 10_000
_MAX_DIMENSION = 2**63 - 1
_MAX_BYTES = 2**63 - 1

_BAD_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")
_INTEGER = r"[ \t\n\r]*(?:0|[1-9][0-9]{0,19})[ \t\n\r]*"
_INTEGERS = re.compile(f"{_INTEGER}(?:,{_INTEGER}){{0,{MAX_RANK - 1}}}|[ \t\n\r]*")


def header_size(prefix: bytes, file_size: int) -> int:
    """Bytes from the start of the file to its first tensor, from the first 8 bytes.

    Raises SafetensorsTruncatedError if the file is shorter than that and SafetensorsHeaderTooLargeError over 16 MiB.
    """
    if file_size < PREFIX or len(prefix) < PREFIX:
        message = f"The file has {min(file_size, len(prefix))} bytes, too few for the 8 that give the header's length."
        raise SafetensorsTruncatedError(message)
    length = int.from_bytes(prefix[:PREFIX], "little")
    if length > MAX_HEADER:
        message = f"The first 8 bytes ask for a header of {length:,} bytes, more than the {MAX_HEADER:,} allowed."
        raise SafetensorsHeaderTooLargeError(message)
    if PREFIX + length > file_size:
        message = f"The header should be {length:,} bytes long, but the file ends after {file_size - PREFIX:,} of them."
        raise SafetensorsTruncatedError(message)
    return PREFIX + length


def parse(header: bytes, file_size: int) -> Header:
    """Read the first `header_size` bytes of a file of `file_size` bytes and check every rule of the format.

    Raises the leaf of SafetensorsError that belongs to the first rule broken.
    """
    size = header_size(header[:PREFIX], file_size)
    if len(header) != size:
        message = f"The header should be {size:,} bytes with its length, but {len(header):,} were read."
        raise SafetensorsTruncatedError(message)
    try:
        text = header[PREFIX:].decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"The header is not UTF-8 at byte {PREFIX + error.start} of the file."
        raise SafetensorsEncodingError(message) from None
    if not text.startswith("{"):
        message = "The header is not a JSON object that starts at byte 8 of the file."
        raise SafetensorsNotObjectError(message)
    scanner = Scanner(text)
    try:
        tensors, metadata = _entries(scanner, size)
        scanner.end()
    except ScanError as error:
        raise SafetensorsSyntaxError(f"The header is not valid: {error} of it.") from None
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size, tensor.name))
    _check_layout(tensors, size, file_size)
    return Header(tuple(tensors), metadata or {}, size)


def _entries(scanner: Scanner, base: int) -> tuple[list[Tensor], dict[str, str] | None]:
    """Every tensor in the order of the header, and the metadata if there is any."""
    tensors: list[Tensor] = []
    names: set[str] = set()
    metadata: dict[str, str] | None = None
    for name in scanner.members():
        if name == "__metadata__":
            if metadata is not None:
                raise SafetensorsDuplicateKeyError("The header has __metadata__ twice.")
            metadata = _metadata(scanner)
            continue
        _check_name(name)
        if name in names:
            raise SafetensorsDuplicateKeyError(f"The header lists tensor {name!r} twice.", tensor=name)
        if len(tensors) == MAX_TENSORS:
            message = f"The header lists more than {MAX_TENSORS:,} tensors, {name!r} being the first too many."
            raise SafetensorsTooManyTensorsError(message, tensor=name)
        names.add(name)
        tensors.append(_tensor(scanner, name, base))
    return tensors, metadata


def _metadata(scanner: Scanner) -> dict[str, str]:
    if scanner.peek() != "{":
        raise SafetensorsMetadataError("__metadata__ is not a JSON object.")
    found: dict[str, str] = {}
    for key in scanner.members():
        if key in found:
            raise SafetensorsDuplicateKeyError(f"__metadata__ has the key {_shown(key)} twice.")
        if len(found) == MAX_METADATA_KEYS:
            raise SafetensorsMetadataError(f"__metadata__ has more than {MAX_METADATA_KEYS:,} keys.")
        if scanner.peek() != '"':
            raise SafetensorsMetadataError(f"The value of {_shown(key)} in __metadata__ is not text.")
        value = scanner.string()
        if _BAD_TEXT.search(key) or _BAD_TEXT.search(value):
            message = f"The text of {_shown(key)} in __metadata__ has a NUL or half a surrogate pair."
            raise SafetensorsMetadataError(message)
        found[key] = value
    return found


def _check_name(name: str) -> None:
    if not name:
        raise SafetensorsNameError("A tensor has an empty name.")
    if len(name) > MAX_NAME:
        message = f"The name of tensor {_shown(name)} has {len(name):,} characters, more than {MAX_NAME:,}."
        raise SafetensorsNameError(message)
    if _BAD_NAME.search(name):
        message = f"The name of tensor {_shown(name)} has a control character or half a surrogate pair."
        raise SafetensorsNameError(message)


def _tensor(scanner: Scanner, name: str, base: int) -> Tensor:
    """One entry; the offsets of the header count from its end, ours from the start of the file."""
    if scanner.peek() != "{":
        raise SafetensorsNotObjectError(f"What the header says of tensor {name!r} is not an object.", tensor=name)
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    offsets: tuple[int, int] | None = None
    for field in scanner.members():
        if field == "dtype" and dtype is None:
            dtype = _dtype(scanner, name)
        elif field == "shape" and shape is None:
            shape = _shape(scanner, name)
        elif field == "data_offsets" and offsets is None:
            offsets = _offsets(scanner, name)
        else:
            _refuse_field(name, field)
    if dtype is None or shape is None or offsets is None:
        missing = "dtype" if dtype is None else "shape" if shape is None else "data_offsets"
        raise SafetensorsMissingFieldError(f"Tensor {name!r} has no {missing}.", tensor=name)
    begin, end = offsets
    size = end - begin
    if size * 8 != _bits(name, dtype, shape):
        message = f"Tensor {name!r} has {size:,} bytes, which is not what {dtype} of shape {list(shape)} takes."
        raise SafetensorsSizeMismatchError(message, tensor=name)
    return Tensor(name, dtype, shape, base + begin, size)


def _refuse_field(name: str, field: str) -> NoReturn:
    if field in {"dtype", "shape", "data_offsets"}:
        raise SafetensorsDuplicateKeyError(f"Tensor {name!r} has {field} twice.", tensor=name)
    raise SafetensorsUnknownFieldError(f"Tensor {name!r} has an unknown field {_shown(field)}.", tensor=name)


def _dtype(scanner: Scanner, name: str) -> str:
    if scanner.peek() != '"':
        raise SafetensorsDtypeError(f"The dtype of tensor {name!r} is not text.", tensor=name)
    dtype = scanner.string()
    if dtype not in BITS:
        message = f"Tensor {name!r} has the dtype {_shown(dtype)}, which safetensors does not know."
        raise SafetensorsDtypeError(message, tensor=name)
    return dtype


def _shape(scanner: Scanner, name: str) -> tuple[int, ...]:
    text = _list(scanner, name, "shape", SafetensorsShapeError)
    if text.count(",") >= MAX_RANK:
        raise SafetensorsRankError(f"Tensor {name!r} has more than {MAX_RANK} dimensions.", tensor=name)
    if not _INTEGERS.fullmatch(text):
        message = f"The shape of tensor {name!r} is not a list of integers from 0 up."
        raise SafetensorsShapeError(message, tensor=name)
    shape = _numbers(text)
    if shape and max(shape) > _MAX_DIMENSION:
        raise SafetensorsOverflowError(f"A dimension of tensor {name!r} does not fit into 64 bits.", tensor=name)
    return shape


def _offsets(scanner: Scanner, name: str) -> tuple[int, int]:
    text = _list(scanner, name, "data_offsets", SafetensorsOffsetsError)
    if text.count(",") != 1 or not _INTEGERS.fullmatch(text):
        message = f"The data_offsets of tensor {name!r} are not two integers from 0 up."
        raise SafetensorsOffsetsError(message, tensor=name)
    begin, end = _numbers(text)
    if begin > end:
        message = f"The data_offsets of tensor {name!r} are reversed: {begin:,} is after {end:,}."
        raise SafetensorsOffsetsError(message, tensor=name)
    return begin, end


def _list(scanner: Scanner, name: str, field: str, error: type[SafetensorsError]) -> str:
    if scanner.peek() != "[":
        raise error(f"The {field} of tensor {name!r} is not a list.", tensor=name)
    return scanner.array_text()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text.strip() else ()


def _bits(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    """Bits of the tensor. The product skips zeros: `[2**62, 2**62, 0]` breaks readers that multiply in order."""
    bits = BITS[dtype]
    for dimension in shape:
        bits *= dimension or 1
        if bits > _MAX_BYTES:
            message = f"The shape of tensor {name!r} asks for more bytes than 64 bits can count."
            raise SafetensorsOverflowError(message, tensor=name)
    return 0 if 0 in shape else bits


def _check_layout(tensors: list[Tensor], start: int, file_size: int) -> None:
    """The tensors cover the file from the header to its end, each byte once."""
    previous = ""
    for tensor in tensors:
        if tensor.offset < start:
            message = f"Tensor {tensor.name!r} overlaps tensor {previous!r} at byte {tensor.offset:,} of the file."
            raise SafetensorsOverlapError(message, tensor=tensor.name)
        if tensor.offset > start and tensor.offset <= file_size:
            message = f"The {tensor.offset - start:,} bytes before tensor {tensor.name!r} belong to no tensor."
            raise SafetensorsHoleError(message, tensor=tensor.name)
        start = tensor.offset + tensor.size
        if start > file_size:
            message = f"Tensor {tensor.name!r} ends at byte {start:,}, but the file has only {file_size:,}."
            raise SafetensorsTruncatedError(message, tensor=tensor.name)
        previous = tensor.name
    if start < file_size:
        after = f"tensor {previous!r}" if previous else "the header"
        raise SafetensorsTrailingBytesError(f"The {file_size - start:,} bytes after {after} belong to no tensor.")


def _shown(text: str) -> str:
    """A text nobody has checked yet, short enough for a sentence and without control characters."""
    return ascii(text if len(text) <= 64 else text[:61] + "...")
