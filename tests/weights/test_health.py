from typing import Any, cast

import numpy as np
import pytest

from registry.domain.health import Statistics
from registry.weights.arrays import as_array
from registry.weights.health import Meter, Workspace
from registry.weights.tensors import BITS, Tensor

MEASURED = [dtype for dtype in BITS if not dtype.startswith(("F4", "F6"))]
WITH_ZERO = [dtype for dtype in MEASURED if dtype not in ("C64", "F8_E8M0")]
NUMPY = {"U64": "u8", "I64": "i8", "U32": "u4", "I32": "i4", "F16": "f2", "F32": "f4", "F64": "f8"}
WORKSPACE = Workspace()


def measured(dtype, data, *cuts):
    meter = Meter(dtype, WORKSPACE)
    for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        meter.add(memoryview(data)[begin:end])
    return meter.statistics()


def expected(dtype, data) -> Any:
    """The plain way: the whole array at once, in the widest type there is."""
    count = len(data) * 8 // BITS[dtype]
    values = as_array(Tensor("w", dtype, (count,), 0, len(data)), data)
    nans = np.isnan(values)
    finite = np.isfinite(values)
    good = values[finite]
    wide = np.concatenate([good.real, good.imag]) if dtype == "C64" else good
    norm = float(np.sqrt(np.square(wide.astype(np.longdouble)).sum()))
    ordered = len(good) > 0 and dtype != "C64"
    return Statistics(
        int(nans.sum()),
        int((~finite & ~nans).sum()),
        int((good == 0).sum()),
        float(good.min()) if ordered else None,
        float(good.max()) if ordered else None,
        cast("Any", pytest.approx(norm, rel=1e-12)),
    )


def arbitrary(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def plausible(dtype, count):
    """Weights as they are: small, finite, some zero."""
    values = np.random.default_rng(1).normal(0, 0.02, count).astype(np.float32)
    values[::7] = 0
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype(NUMPY[dtype]).tobytes()


@pytest.mark.parametrize("dtype", MEASURED)
def test_arbitrary_bytes_are_measured_as_numpy_measures_them_whole(dtype):
    data = arbitrary(600_000)
    assert measured(dtype, data) == expected(dtype, data)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_ordinary_weights_are_measured_as_numpy_measures_them_whole(dtype):
    data = plausible(dtype, 150_001)
    assert measured(dtype, data) == expected(dtype, data)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_each_of_the_65536_numbers_of_two_bytes_is_right(dtype):
    for value in np.arange(1 << 16, dtype=np.uint16).reshape(-1, 16):
        assert measured(dtype, value.tobytes()) == expected(dtype, value.tobytes())


@pytest.mark.parametrize("dtype", [dtype for dtype in MEASURED if BITS[dtype] == 8])
def test_each_of_the_256_numbers_of_one_byte_is_right(dtype):
    for value in range(256):
        assert measured(dtype, bytes([value])) == expected(dtype, bytes([value]))


@pytest.mark.parametrize("dtype", MEASURED)
@pytest.mark.parametrize("cuts", [(1,), (3, 4, 5, 6, 7, 8, 9), (65_537, 65_537, 131_071), (599_993, 599_999)])
def test_pieces_may_be_cut_anywhere(dtype, cuts):
    data = arbitrary(600_000, seed=2)
    assert measured(dtype, data, *cuts) == expected(dtype, data)


@pytest.mark.parametrize("dtype", MEASURED)
def test_bytes_at_an_odd_address_are_measured(dtype):
    data = arbitrary(80_001, seed=3)
    meter = Meter(dtype, WORKSPACE)
    meter.add(memoryview(data)[1:])
    assert meter.statistics() == expected(dtype, data[1:])


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 65_535, 65_536, 150_000])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(dtype, bad, at):
    single = np.array([bad], np.float32)
    code = (single.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else single.astype(NUMPY[dtype])
    data = bytearray(plausible(dtype, 150_001))
    data[at * code.itemsize : (at + 1) * code.itemsize] = code.tobytes()
    found = measured(dtype, bytes(data))
    assert found == expected(dtype, bytes(data))
    assert (found.nan_count or 0) + (found.inf_count or 0) == 1


@pytest.mark.parametrize("dtype", WITH_ZERO)
def test_a_tensor_of_zeros_has_a_norm_of_zero(dtype):
    assert measured(dtype, bytes(80_000)) == Statistics(0, 0, 80_000 * 8 // BITS[dtype], 0.0, 0.0, 0.0)


def test_a_tensor_without_a_finite_number_has_no_extremes():
    assert measured("F32", np.full(9, np.nan, np.float32).tobytes()) == Statistics(9, 0, 0, None, None, 0.0)


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_the_norm_of_extreme_numbers_neither_overflows_nor_vanishes(value):
    data = np.full(100_000, value).tobytes()
    assert measured("F64", data).norm == pytest.approx(value * 100_000**0.5)


def test_a_norm_that_no_double_can_hold_is_none():
    assert measured("F64", np.full(4, 1.7e308).tobytes()).norm is None


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "Q4_K"])
def test_a_dtype_that_is_not_looked_into_says_nothing(dtype):
    assert measured(dtype, bytes(96)) == Statistics()
