"""A tensor's bytes as an array.

numpy has no type for several dtypes of weight files. What `as_array` returns for each:

    ============================================  ==================================================================
    BOOL, U8 … U64, I8 … I64, F16, F32, F64, C64  the same type, without a copy
    BF16, F8_E4M3, F8_E5M2, F8_E4M3FNUZ,          float32, a copy; every value is exact
    F8_E5M2FNUZ, F8_E8M0
    F4, F6_E2M3, F6_E3M2                          the packed bytes as uint8: the last dimension counts bytes if a row
                                                  is whole bytes, else the array is flat
    anything else, such as GGUF's blocks (Q4_K)   the bytes as they are, as flat uint8
    ============================================  ==================================================================

`as_torch` keeps the true dtype, and gives the last row's the same way. numpy and torch are imported when first used.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from math import inf, nan
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from registry.weights.errors import TensorDtypeError, TorchMissingError
from registry.weights.tensors import BITS, Tensor

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_NUMPY = MappingProxyType(
    {
        "BOOL": "?",
        "U8": "u1",
        "I8": "i1",
        "U16": "<u2",
        "I16": "<i2",
        "F16": "<f2",
        "U32": "<u4",
        "I32": "<i4",
        "F32": "<f4",
        "U64": "<u8",
        "I64": "<i8",
        "F64": "<f8",
        "C64": "<c8",
    }
)

_TORCH = MappingProxyType(
    {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "U16": "uint16",
        "I16": "int16",
        "F16": "float16",
        "BF16": "bfloat16",
        "U32": "uint32",
        "I32": "int32",
        "F32": "float32",
        "U64": "uint64",
        "I64": "int64",
        "F64": "float64",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F4": "float4_e2m1fn_x2",
        "F6_E2M3": "uint8",
        "F6_E3M2": "uint8",
    }
)


# Elements widened at once: what is read and what is written both stay in the processor's cache.
_AT_ONCE = 1 << 16


def is_widened(dtype: str) -> bool:
    """Whether numpy has no such type, so that `as_array` makes float32 of it."""
    return dtype == "BF16" or (dtype.startswith("F8_") and dtype in BITS)


def widen(dtype: str, buffer: bytes | bytearray | memoryview | Array, out: Array, /) -> None:
    """Write the elements in `buffer` into `out`, float32 of as many elements. For dtypes that `is_widened`."""
    import numpy as np  # noqa: PLC0415 - importing this module must stay cheap

    if dtype == "BF16":
        bits, into = np.frombuffer(buffer, "<u2"), out.view(np.uint32)
        for start in range(0, len(bits), _AT_ONCE):
            part = into[start : start + _AT_ONCE]
            part[:] = bits[start : start + _AT_ONCE]
            part <<= 16
        return
    values, raw = np.asarray(byte_values(dtype), np.float32), np.frombuffer(buffer, np.uint8)
    for start in range(0, len(raw), _AT_ONCE):
        np.take(values, raw[start : start + _AT_ONCE], out=out[start : start + _AT_ONCE], mode="clip")


def as_array(tensor: Tensor, buffer: bytes | bytearray | memoryview, /) -> Array:
    """The tensor as a numpy array; `buffer` is its bytes. Read-only if the buffer is and nothing was converted.

    Raises ValueError if the buffer is not as long as the tensor.
    """
    import numpy as np  # noqa: PLC0415 - importing this module must stay cheap

    _check_length(tensor, buffer)
    dtype = _NUMPY.get(tensor.dtype)
    if dtype is not None:
        return np.frombuffer(buffer, dtype).reshape(tensor.shape)
    if not is_widened(tensor.dtype):
        return np.frombuffer(buffer, np.uint8).reshape(_packed_shape(tensor))
    wide = np.empty(tensor.size * 8 // BITS[tensor.dtype], np.float32)
    widen(tensor.dtype, buffer, wide)
    return wide.reshape(tensor.shape)


def as_torch(tensor: Tensor, buffer: bytes | bytearray | memoryview, /) -> Any:
    """The tensor as a torch tensor of its true dtype; `buffer` is its bytes, shared if it can be written to.

    F6 dtypes and blocks, which torch lacks, give the packed bytes as uint8. Raises TorchMissingError, TensorDtypeError
    if this torch has no such dtype, and ValueError if the buffer is not as long as the tensor.
    """
    _check_length(tensor, buffer)
    try:
        torch = import_module("torch")
    except ImportError:
        raise TorchMissingError(f"Tensor {tensor.name!r} was asked for as a torch tensor without torch.") from None
    dtype = getattr(torch, _TORCH.get(tensor.dtype, "uint8"), None)
    if dtype is None:
        message = f"This torch has no dtype for tensor {tensor.name!r}, which is {tensor.dtype}."
        raise TensorDtypeError(message, tensor=tensor.name, dtype=tensor.dtype)
    shape = tensor.shape if BITS.get(tensor.dtype, 0) >= 8 else _packed_shape(tensor)
    if not tensor.size:
        return torch.empty(shape, dtype=dtype)
    writable = bytearray(buffer) if memoryview(buffer).readonly else buffer
    return torch.frombuffer(writable, dtype=torch.uint8).view(dtype).reshape(shape)


def _check_length(tensor: Tensor, buffer: bytes | bytearray | memoryview) -> None:
    length = memoryview(buffer).nbytes
    if length != tensor.size:
        raise ValueError(f"tensor {tensor.name!r} has {tensor.size} bytes, the buffer {length}")


def _packed_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape in bytes of a tensor whose elements are smaller than one, or blocks."""
    row = tensor.shape[-1] * BITS.get(tensor.dtype, 1) if tensor.shape else 1
    return (tensor.size,) if row % 8 or tensor.dtype not in BITS else (*tensor.shape[:-1], row // 8)


@cache
def byte_values(dtype: str) -> tuple[float, ...]:
    """The value of each of the 256 bytes of an eight-bit float."""
    if dtype == "F8_E8M0":
        return (*(2.0 ** (byte - 127) for byte in range(255)), nan)
    mantissa = 3 if "E4M3" in dtype else 2
    return tuple(_float8(byte, mantissa, dtype) for byte in range(256))


def _float8(byte: int, mantissa: int, dtype: str) -> float:
    """One eight-bit float. `FNUZ`: no infinities, no negative zero, whose bits mean NaN, and a bias larger by one."""
    unsigned_zero = dtype.endswith("FNUZ")
    sign = -1.0 if byte & 0x80 else 1.0
    magnitude = byte & 0x7F
    if unsigned_zero and byte == 0x80:
        return nan
    if dtype == "F8_E4M3" and magnitude == 0x7F:
        return nan
    if dtype == "F8_E5M2" and magnitude >= 0x7C:
        return sign * inf if magnitude == 0x7C else nan
    bias = (1 << (6 - mantissa)) - 1 + unsigned_zero
    exponent, fraction = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
    if not exponent:
        return sign * fraction * 2.0 ** (1 - bias - mantissa)
    return sign * ((1 << mantissa) + fraction) * 2.0 ** (exponent - bias - mantissa)
