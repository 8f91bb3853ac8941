import math
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from registry.weights.arrays import as_array, as_torch
from registry.weights.errors import TorchMissingError
from registry.weights.safetensors import header_size, parse
from registry.weights.tensors import BITS, Tensor

TYPES = ["?", "u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8", "<c8"]


def flat(dtype: str, data: bytes | bytearray) -> Tensor:
    return Tensor("w", dtype, (len(data) * 8 // BITS[dtype],), 0, len(data))


def values(dtype: str, data: bytes) -> list[float]:
    return [float(x) for x in as_array(flat(dtype, data), data)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (2, 3, 4)])
def test_what_numpy_can_hold_is_what_the_library_loads(dtype, shape) -> None:
    original = np.asarray(np.arange(math.prod(shape)).reshape(shape) % 5, dtype)
    data = safetensors.numpy.save({"w": original})
    tensor = parse(data[: header_size(data[:8], len(data))], len(data)).tensors[0]
    ours = as_array(tensor, memoryview(data)[tensor.offset :])
    theirs = safetensors.numpy.load(data)["w"]
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert ours.tobytes() == theirs.tobytes()


def test_an_array_shares_the_buffer_and_its_right_to_be_written() -> None:
    buffer = bytearray(8)
    array = as_array(flat("F32", buffer), buffer)
    array[0] = 1.0
    assert buffer[:4] == b"\0\0\x80?"
    assert not as_array(flat("F32", bytes(8)), bytes(8)).flags.writeable


def test_bfloat16_becomes_the_same_float32() -> None:
    bits = np.arange(2**16, dtype="<u2")
    array = as_array(Tensor("w", "BF16", (256, 256), 0, 2**17), bits.tobytes())
    assert array.dtype == np.float32
    assert array.shape == (256, 256)
    assert (array.reshape(-1).view(np.uint32) == bits.astype(np.uint32) << 16).all()


@pytest.mark.parametrize(
    ("dtype", "byte", "value"),
    [
        ("F8_E4M3", 0x00, 0.0),
        ("F8_E4M3", 0x01, 2.0**-9),
        ("F8_E4M3", 0x08, 2.0**-6),
        ("F8_E4M3", 0x38, 1.0),
        ("F8_E4M3", 0x7E, 448.0),
        ("F8_E4M3", 0xFE, -448.0),
        ("F8_E4M3", 0xFF, math.nan),
        ("F8_E4M3FNUZ", 0x01, 2.0**-10),
        ("F8_E4M3FNUZ", 0x40, 1.0),
        ("F8_E4M3FNUZ", 0x7F, 240.0),
        ("F8_E4M3FNUZ", 0x80, math.nan),
        ("F8_E5M2", 0x01, 2.0**-16),
        ("F8_E5M2", 0x3C, 1.0),
        ("F8_E5M2", 0x7B, 57344.0),
        ("F8_E5M2", 0xFC, -math.inf),
        ("F8_E5M2", 0x7D, math.nan),
        ("F8_E5M2FNUZ", 0x01, 2.0**-17),
        ("F8_E5M2FNUZ", 0x40, 1.0),
        ("F8_E5M2FNUZ", 0x7F, 57344.0),
        ("F8_E5M2FNUZ", 0x80, math.nan),
        ("F8_E8M0", 0x00, 2.0**-127),
        ("F8_E8M0", 0x7F, 1.0),
        ("F8_E8M0", 0xFE, 2.0**127),
        ("F8_E8M0", 0xFF, math.nan),
    ],
)
def test_eight_bit_floats_become_the_same_float32(dtype, byte, value) -> None:
    (found,) = values(dtype, bytes([byte]))
    assert found == value or (math.isnan(found) and math.isnan(value))
    assert as_array(flat(dtype, b"\0\0"), b"\0\0").dtype == np.float32


def test_e5m2_is_the_upper_half_of_a_float16() -> None:
    data = bytes(range(256))
    half = np.frombuffer(b"".join(bytes([0, byte]) for byte in data), "<f2").astype(np.float32)
    assert np.array_equal(as_array(flat("F8_E5M2", data), data), half, equal_nan=True)


def test_dtypes_smaller_than_a_byte_stay_packed() -> None:
    assert as_array(Tensor("w", "F4", (3, 4), 0, 6), bytes(6)).shape == (3, 2)
    assert as_array(Tensor("w", "F4", (2, 3), 0, 3), bytes(3)).shape == (3,)
    assert as_array(Tensor("w", "F6_E2M3", (5, 4), 0, 15), bytes(15)).shape == (5, 3)
    assert as_array(Tensor("w", "F6_E3M2", (0, 4), 0, 0), b"").shape == (0, 3)


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_gives_an_array(dtype) -> None:
    size = BITS[dtype]
    assert as_array(flat(dtype, bytes(size)), bytes(size)).size


def test_a_buffer_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="8 bytes, the buffer 7"):
        as_array(flat("F32", bytes(8)), bytes(7))
    with pytest.raises(ValueError, match="8 bytes, the buffer 9"):
        as_torch(flat("F32", bytes(8)), bytes(9))


def test_importing_the_package_loads_neither_numpy_nor_torch() -> None:
    modules = ["arrays", "errors", "formats", "json_scan", "pickles", "safetensors", "segments", "sharded", "tensors"]
    lines = [f"import registry.weights.{module}" for module in modules]
    lines += ["import sys", "sys.exit(any(name in sys.modules for name in ('numpy', 'torch', 'safetensors')))"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_torch_that_is_not_installed_is_said_so(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TorchMissingError, match="'w'"):
        as_torch(flat("F32", bytes(8)), bytes(8))


def test_torch_keeps_the_true_dtype() -> None:
    torch = pytest.importorskip("torch")
    for dtype, bits in BITS.items():
        data = bytes(range(bits))
        tensor = as_torch(flat(dtype, data), data)
        assert tensor.view(torch.uint8).numpy().tobytes() == data
        assert as_torch(Tensor("w", dtype, (0, 8), 0, 0), b"").numel() == 0
    assert as_torch(flat("BF16", bytes(4)), bytes(4)).dtype == torch.bfloat16
