import os
import threading

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.client._hashing import FileChangedError, hash_file
from registry.client._sources import sources
from registry.weights import contents

MB = 1 << 20
RANDOM = np.random.Generator(np.random.SFC64(1))
WEIGHTS = RANDOM.bytes(9 * MB)


def spans(path) -> list[tuple[int, int]]:
    (source,) = sources([path])
    assert sum(size for _, size in source.spans) == source.size
    return list(source.spans)


def digests(path) -> set[str]:
    return {piece.sha256 for piece in hash_file(path, spans(path)).pieces}


def test_a_file_of_no_known_format_is_cut_where_its_bytes_say(tmp_path) -> None:
    first, other = tmp_path / "a.tar", tmp_path / "b.tar"
    first.write_bytes(b"config" + WEIGHTS)
    other.write_bytes(b"another config" + WEIGHTS)
    assert len(digests(first) & digests(other)) >= len(digests(first)) - 3
    assert max(size for _, size in spans(first)) <= contents.MAX_BYTES


def test_a_large_tensor_is_cut_off_from_what_lies_before_it(tmp_path) -> None:
    tensor = RANDOM.standard_normal((256, 512), dtype=np.float32)
    for name, metadata in (("a", {}), ("b", {"note": "n" * 999})):
        save_file({"weight": tensor}, tmp_path / f"{name}.safetensors", metadata=metadata)
    first, other = (spans(tmp_path / f"{name}.safetensors") for name in "ab")
    assert [size for _, size in first[1:]] == [size for _, size in other[1:]] == [tensor.nbytes]


def test_an_empty_file_has_no_segments(tmp_path) -> None:
    (tmp_path / "empty.txt").touch()
    assert spans(tmp_path / "empty.txt") == []


def test_a_file_that_is_cut_short_while_it_is_looked_at_does_not_end_the_process(tmp_path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(WEIGHTS * 4)
    shorten = threading.Thread(target=os.truncate, args=(path, 3 * MB))
    shorten.start()
    (source,) = sources([path])
    shorten.join()
    with pytest.raises(FileChangedError):
        hash_file(path, source.spans if source.size > 3 * MB else ((0, 4 * MB),))
