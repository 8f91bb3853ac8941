import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from registry.weights import pickles
from registry.weights.errors import SafetensorsError, SafetensorsTruncatedError
from registry.weights.formats import FORMATS, Facts, facts, header_of, media_type


class File:
    """Bytes that note how much of them was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read = 0

    def __call__(self, offset: int, size: int) -> bytes:
        assert offset >= 0
        assert offset + size <= len(self.data)
        self.read += size
        return self.data[offset : offset + size]


def look(path: str, data: bytes) -> Facts:
    return facts(path, len(data), File(data))


def zipped(*names: str, comment: bytes = b"", content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


SAFE = save({"w": np.zeros((2, 2), np.float16)}, {"epoch": "3"})


def test_a_safetensors_file_tells_its_tensors() -> None:
    found = look("a/Model.SafeTensors", SAFE)
    assert (found.format, found.pickle, found.header.metadata) == ("safetensors", False, {"epoch": "3"})
    assert [(t.name, t.dtype, t.shape) for t in found.header.tensors] == [("w", "F16", (2, 2))]
    assert found.header.size == len(SAFE) - 8


def test_only_the_header_of_a_safetensors_file_is_read() -> None:
    data = save({"w": np.zeros(1_000_000, np.float32)})
    file = File(data)
    facts("m.safetensors", len(data), file)
    assert file.read < 1000


def test_header_of_gives_the_header_or_none() -> None:
    header = header_of("m.safetensors", len(SAFE), File(SAFE))
    assert header is not None
    assert header.size == len(SAFE) - 8
    assert header_of("m.dat", len(SAFE), File(SAFE)) is None


@pytest.mark.parametrize("data", [b"", b"1234567", SAFE[:-1], SAFE + b"x", pickle.dumps({"a": 1}), b"\x89PNG\r\n" * 9])
def test_a_file_that_ends_in_safetensors_and_is_not_is_refused(data) -> None:
    with pytest.raises(SafetensorsError):
        look("m.safetensors", data)
    with pytest.raises(SafetensorsError):
        header_of("m.safetensors", len(data), File(data))


def test_a_read_that_comes_short_is_refused() -> None:
    with pytest.raises(SafetensorsTruncatedError):
        facts("m.safetensors", len(SAFE), lambda _offset, _size: b"")
    with pytest.raises(SafetensorsTruncatedError):
        facts("m.safetensors", len(SAFE), lambda offset, size: SAFE[offset : offset + min(size, 20)])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("best.pt", "pytorch"),
        ("a/pytorch_model.bin", "pytorch"),
        ("x.PTH", "pytorch"),
        ("last.ckpt", "pytorch"),
        ("model_best.pth.tar", "pytorch"),
        ("asr.nemo", "pytorch"),
        ("x.pkl", "pickle"),
        ("x.pkl.gz", "pickle"),
        ("x.pickle", "pickle"),
        ("x.joblib", "pickle"),
        ("x.joblib.xz", "pickle"),
    ],
)
def test_a_pickled_format_is_flagged_by_name_alone(name, kind) -> None:
    for data in (b"", b"anything at all"):
        assert look(name, data) == Facts(kind, pickle=True)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [None, 1, "x", b"x", [1], {"a": 1}, (1, 2), 2**70, 1.5, True, Exception, {1}])
def test_a_pickle_is_flagged_under_any_name(protocol, value) -> None:
    data = pickle.dumps(value, protocol)
    assert look("weights.dat", data) == Facts("pickle", pickle=True)
    assert look("README.md", data).pickle


def test_what_unpickling_would_run_is_never_run(tmp_path) -> None:
    target = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(target), "w"))

    data = pickle.dumps(Evil())
    for name in ("x.pkl", "x.pt", "x.bin", "x", "x.zip"):
        assert look(name, data).pickle
        assert look(name, zipped("archive/data.pkl", content=data)).pickle
    assert not target.exists()


@pytest.mark.parametrize("names", [["archive/data.pkl"], ["a.txt", "b/constants.PKL"], ["x/model.pt"]])
@pytest.mark.parametrize("comment", [b"", b"c" * 65_535])
def test_a_zip_with_a_pickle_inside_is_flagged_under_any_name(names, comment) -> None:
    assert look("model", zipped(*names, comment=comment)) == Facts("pytorch", pickle=True)


def test_a_zip_without_a_pickle_is_not_flagged() -> None:
    assert look("arrays.npz", zipped("w.npy")) == Facts("opaque", pickle=False)
    assert look("model.keras", zipped("config.json", "model.weights.h5", comment=b"c")).pickle is False


def test_a_zip_that_cannot_be_read_in_bounds_is_flagged(monkeypatch) -> None:
    whole = zipped("a.txt")
    end = whole.rindex(b"PK\x05\x06")
    assert look("x.zip", whole[:end]).pickle
    assert look("x.zip", whole[: end + 16] + b"\xfe\xff\xff\x7f" + whole[end + 20 :]).pickle
    assert look("x.zip", whole[: end + 16] + b"\xff\xff\xff\xff" + whole[end + 20 :]).pickle
    monkeypatch.setattr(pickles, "MAX_DIRECTORY", 10)
    assert look("x.zip", whole).pickle


@pytest.mark.parametrize(("name", "flagged"), [("w.npy", False), ("archive/data.pkl", True)])
def test_a_zip_of_the_64_bit_kind_is_looked_through(name, flagged) -> None:
    plain = zipped(name)
    end = plain.rindex(b"PK\x05\x06")
    length, offset = struct.unpack("<II", plain[end + 12 : end + 20])
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, length, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    data = plain[:end] + wide + locator + plain[end : end + 12] + b"\xff" * 8 + plain[end + 20 :]
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == [name]
    assert look("x", data).pickle is flagged


def test_a_numpy_file_of_objects_is_a_pickle_and_one_of_numbers_is_not() -> None:
    for array, flagged in ((np.array([{}], dtype=object), True), (np.zeros(3), False)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        assert look("a.npy", buffer.getvalue()).pickle is flagged


@pytest.mark.parametrize(
    "data", [b"", b"P", b"\x80", b"\x80\x02", b"\x80\x03\x00", b"hello", b"PK\x05\x06" + bytes(18)]
)
def test_other_bytes_are_opaque(data) -> None:
    assert look("notes", data) == Facts("opaque", pickle=False)


def test_little_of_a_large_opaque_file_is_read() -> None:
    file = File(bytes(10_000_000))
    facts("big.weights", 10_000_000, file)
    assert file.read <= 256


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.safetensors", "application/x-safetensors"),
        ("model.safetensors.index.json", "application/json"),
        ("a.b/config.JSON", "application/json"),
        ("a.json/file", "application/octet-stream"),
        ("json", "application/octet-stream"),
        ("page.html", "application/octet-stream"),
        ("image.svg", "application/octet-stream"),
        ("README.md", "text/markdown"),
        ("best.pt", "application/x-pytorch"),
        (".gitattributes", "application/octet-stream"),
    ],
)
def test_the_media_type_is_told_by_the_name(path, expected) -> None:
    assert media_type(path) == expected


def test_an_index_of_shards_is_a_format_of_its_own() -> None:
    data = json.dumps({"weight_map": {}}).encode()
    assert look("model.safetensors.index.json", data).format == "safetensors-index"


def test_no_two_formats_claim_one_name() -> None:
    suffixes = [suffix for row in FORMATS for suffix in row.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)
