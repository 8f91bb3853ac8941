import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.client._arrivals import Arrival, sinks
from registry.client._hashing import Piece
from registry.client._sinks import InMemory, Several
from registry.weights.arrays import as_array
from registry.weights.tensors import BITS, Tensor

DTYPES = ["F32", "BF16", "F8_E4M3", "F8_E8M0", "U8", "F64", "F4", "Q4_K"]
WINDOW = 64  # bytes of a worker's buffer here


def place(dtypes: Sequence[tuple[str, int, int]]) -> tuple[list[Tensor], int]:
    """Tensors behind each other, each after so many other bytes."""
    found, offset = [], 0
    for index, (dtype, count, gap) in enumerate(dtypes):
        offset += gap
        size = (count * BITS.get(dtype, 8) + 7) // 8
        found.append(Tensor(f"t{index}", dtype, (count,), offset, size))
        offset += size
    return found, offset


def cut(data: bytes, sizes: Sequence[int]) -> list[Piece]:
    pieces, offset = [], 0
    for size in [*sizes, len(data)]:
        part = data[offset : offset + size]
        if part:
            pieces.append(Piece(offset, len(part), hashlib.sha256(part).hexdigest()))
            offset += len(part)
    return pieces


def land(piece: Piece, sink, data: bytes) -> None:
    buffer = memoryview(bytearray(WINDOW))
    start = 0
    while start < piece.size:
        view = sink.window(start, piece.size - start, buffer)
        view[:] = data[piece.offset + start :][: len(view)]
        sink.store(start, view)
        start += len(view)


@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 300), st.integers(0, 3)), min_size=1, max_size=8),
    st.lists(st.integers(1, 400), max_size=30),
    st.sets(st.integers(0, 7)),
    st.randoms(use_true_random=False),
)
def test_however_a_file_is_cut_every_tensor_is_what_its_bytes_say(kinds, sizes, skipped, random):
    tensors, total = place(kinds)
    data = random.randbytes(total + 5)
    wanted = [tensor for index, tensor in enumerate(tensors) if index not in skipped]
    arrivals = [Arrival(tensor, "numpy") for tensor in wanted]
    for piece, sink in sinks(arrivals, cut(data, sizes)):
        land(piece, sink, data)
    for arrival in arrivals:
        tensor = arrival.tensor
        expected = as_array(tensor, data[tensor.offset : tensor.offset + tensor.size])
        found = arrival.build()
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()


def test_a_segment_of_one_tensor_lands_in_the_tensors_own_memory():
    data = bytes(range(256)) * 4
    arrival = Arrival(Tensor("t", "F32", (256,), 0, 1024), "numpy")
    found = list(sinks([arrival], cut(data, [512])))
    assert [type(sink) for _, sink in found] == [InMemory, InMemory]
    for piece, sink in found:
        land(piece, sink, data)
    array = arrival.build()
    view = found[0][1].window(0, 512, memoryview(bytearray(512)))
    view[:4] = b"\0\0\x80\x3f"
    assert array[0] == 1.0


def test_only_the_segments_that_are_needed_are_named():
    tensors, total = place([("U8", 100, 0)] * 10)
    pieces = cut(bytes(total), [100] * 10)
    arrivals = [Arrival(tensors[3], "numpy"), Arrival(tensors[7], "numpy")]
    assert [piece for piece, _ in sinks(arrivals, pieces)] == [pieces[3], pieces[7]]


def test_segments_that_end_before_a_tensor_are_told_by_the_offset():
    arrival = Arrival(Tensor("t", "U8", (100,), 0, 100), "numpy")
    with pytest.raises(ValueError) as caught:
        list(sinks([arrival], cut(bytes(60), [])))
    assert caught.value.args == (60,)


def test_one_segment_reaches_every_sink():
    data = np.random.default_rng(1).bytes(300)
    piece = cut(data, [])[0]
    plain, wide = (Arrival(Tensor("t", dtype, (150,), 0, 300), "numpy") for dtype in ("F16", "BF16"))
    several = Several([sink for arrival in (plain, wide, plain) for _, sink in sinks([arrival], [piece])])
    land(piece, several, data)
    assert plain.build().tobytes() == data
    assert wide.build().tobytes() == as_array(wide.tensor, data).tobytes()
