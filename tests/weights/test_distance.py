"""Distances against numpy on whole arrays."""

import numpy as np
import pytest

from registry.weights.arrays import as_array
from registry.weights.distance import Sums, is_measurable, item_size, measure
from registry.weights.tensors import BITS, Tensor

COUNT = 20_003  # more than two blocks, and a rest
FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")
INTEGERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")


def measured(a, b, a_dtype, b_dtype=None, *, window=COUNT):
    """In windows, as the worker does."""
    b_dtype = b_dtype or a_dtype
    left, right = item_size(a_dtype), item_size(b_dtype)
    total = Sums()
    for start in range(0, len(a) // left, window):
        end = start + window
        total += measure(a[start * left : end * left], b[start * right : end * right], a_dtype=a_dtype, b_dtype=b_dtype)
    return total.distance()


def values(data, dtype):
    array = as_array(Tensor("", dtype, (len(data) // item_size(dtype),), 0, len(data)), data)
    if dtype == "C64":
        return array.astype(np.complex128)
    return array if dtype in INTEGERS else array.astype(np.float64)


def finite(dtype, seed):
    """Random elements without NaN or infinities, as bytes."""
    random = np.random.default_rng(seed)
    if dtype == "C64":
        return random.standard_normal(2 * COUNT).astype("<f4").tobytes()
    if dtype in ("F32", "F64", "F16"):
        return random.standard_normal(COUNT).astype(f"<f{item_size(dtype)}").tobytes()
    if dtype == "BF16":
        return (random.standard_normal(COUNT).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    raw = random.integers(0, 256, COUNT * item_size(dtype), np.uint8)
    if dtype == "BOOL":
        raw &= 1
    if dtype in FLOATS:
        bad = ~np.isfinite(values(bytes(range(256)), dtype))
        raw[bad[raw]] = 0
    return raw.tobytes()


def partly(a, b, size):
    """b with every third element as in a."""
    left, right = (np.frombuffer(each, np.uint8).reshape(-1, size).copy() for each in (a, b))
    right[::3] = left[::3]
    return right.tobytes()


def expected(a, b):
    """The definition, in Python's own integers where there are any."""
    if a.dtype.kind in "iub":
        a, b = a.astype(object), b.astype(object)
        apart = abs(b - a)
        return max(apart), float(sum(apart**2)) ** 0.5 / float(sum(a**2)) ** 0.5
    return np.abs(b - a).max(), np.linalg.norm(b - a) / np.linalg.norm(a)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "C64"])
def test_distances_are_those_of_numpy_on_whole_arrays(dtype):
    a, b = finite(dtype, 1), finite(dtype, 2)
    b = partly(a, b, item_size(dtype))
    found = measured(a, b, dtype)
    left, right = values(a, dtype), values(b, dtype)
    if dtype == "BOOL":
        left, right = left.astype(np.uint8), right.astype(np.uint8)
    largest, relative = expected(left, right)
    bits = f"<u{item_size(dtype)}"
    assert found.element_count == COUNT
    assert found.equal_count == np.count_nonzero(np.frombuffer(a, bits) == np.frombuffer(b, bits))
    assert found.max_abs == pytest.approx(float(largest), rel=1e-15)
    assert found.relative_l2 == pytest.approx(relative, rel=1e-12)
    x, y = (np.asarray(each, np.complex128 if dtype == "C64" else np.float64) for each in (left, right))
    cosine = np.vdot(x, y).real / (np.linalg.norm(x) * np.linalg.norm(y))
    assert found.cosine == pytest.approx(cosine, abs=1e-12)


@pytest.mark.parametrize("other", ["BF16", "F16", "F64", "F8_E4M3"])
def test_floats_of_two_kinds_are_compared_by_value(other):
    b = finite(other, 3)
    a = values(b, other).astype("<f4")
    a[::2] += 1
    found = measured(a.tobytes(), b, "F32", other)
    right = values(b, other)
    if other != "F64":
        assert found.equal_count == COUNT // 2
    assert found.max_abs == np.abs(right - a).max()
    assert found.relative_l2 == pytest.approx(np.linalg.norm(right - a) / np.linalg.norm(a.astype(np.float64)))


@pytest.mark.parametrize("window", [1, 1000, 8192])
def test_windows_add_up_to_the_whole(window):
    a, b = finite("BF16", 1)[:6000], finite("BF16", 2)[:6000]
    whole, parts = measured(a, b, "BF16"), measured(a, b, "BF16", window=window)
    assert parts[:3] == whole[:3]
    assert parts[3:] == pytest.approx(whole[3:], rel=1e-13)


def test_differences_of_large_integers_are_exact():
    a = np.array([2**63 - 1, -(2**63), 7], "<i8")
    b = np.array([2**63 - 2, -(2**63), 7], "<i8")
    found = measured(a.tobytes(), b.tobytes(), "I64")
    assert (found.max_abs, found.equal_count) == (1.0, 2)
    a, b = np.array([2**64 - 1], "<u8"), np.array([0], "<u8")
    assert measured(a.tobytes(), b.tobytes(), "U64").max_abs == float(2**64 - 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
def test_what_is_not_finite_leaves_only_the_share_of_equal_elements(dtype, bad):
    a = np.ones(COUNT, f"<f{item_size(dtype)}")
    b = a.copy()
    a[COUNT // 2] = bad
    b[3] = 2
    assert measured(a.tobytes(), b.tobytes(), dtype) == (COUNT, COUNT - 2, None, None, None)
    assert measured(b.tobytes(), a.tobytes(), dtype) == (COUNT, COUNT - 2, None, None, None)
    b[COUNT // 2] = bad
    assert measured(a.tobytes(), b.tobytes(), dtype) == (COUNT, COUNT - 1, None, None, None)


def test_the_same_nan_in_two_dtypes_is_equal():
    a, b = np.array([np.nan, 1], "<f4"), np.array([np.nan, 1], "<f2")
    assert measured(a.tobytes(), b.tobytes(), "F32", "F16").equal_count == 2


def test_what_does_not_fit_a_double_is_not_known():
    a, b = np.array([1e300], "<f8"), np.array([-1e300], "<f8")
    assert measured(a.tobytes(), b.tobytes(), "F64") == (1, 0, None, None, None)


def test_minus_zero_is_another_element_at_no_distance():
    a, b = np.array([0.0, 1.0], "<f4"), np.array([-0.0, 1.0], "<f4")
    assert measured(a.tobytes(), b.tobytes(), "F32") == (2, 1, 0.0, 0.0, 1.0)


def test_a_change_from_zero_has_no_relative_size():
    zero, one = np.zeros(4, "<f4").tobytes(), np.ones(4, "<f4").tobytes()
    assert measured(zero, one, "F32") == (4, 0, 1.0, None, None)
    assert measured(one, zero, "F32") == (4, 0, 1.0, 1.0, None)


def test_bytes_need_not_be_aligned():
    a = b"x" + np.arange(100, dtype="<f4").tobytes()
    view = memoryview(a)[1:]
    assert measure(view, view, a_dtype="F32", b_dtype="F32").equal_count == 100


def test_integers_are_measured_only_against_their_own_kind():
    assert is_measurable("I8", "I8")
    assert not is_measurable("I8", "U8")
    assert not is_measurable("I64", "F32")
    assert not is_measurable("F32", "C64")
    assert not is_measurable("Q4_K", "Q4_K")
    assert not is_measurable("F4", "F4")
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(b"", b"", a_dtype="I8", b_dtype="U8")


def test_every_dtype_of_whole_bytes_is_measured():
    assert {dtype for dtype in BITS if is_measurable(dtype, dtype)} == {
        dtype for dtype, bits in BITS.items() if bits >= 8
    }


def test_windows_of_different_length_are_refused():
    with pytest.raises(ValueError, match="differ"):
        measure(bytes(8), bytes(4), a_dtype="F32", b_dtype="F32")
