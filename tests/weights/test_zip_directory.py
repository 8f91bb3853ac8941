import io
import random
import struct
import zipfile

import pytest

from registry.weights import zip_directory
from registry.weights.zip_directory import Member, ZipError, data_offset, derived_offset, raw_directory, read_members
from tests.weights.torch_file import File, archive, zipped

CONTENT = {"m/data.pkl": b"abc", "m/data/0": b"x" * 500, "m/data/1": b"", "m/data/2": b"y" * 64, "m/version": b"3"}


def members(data: bytes) -> dict[str, Member]:
    return {member.name: member for member in read_members(len(data), File(data))}


def refused(data: bytes) -> str:
    with pytest.raises(ZipError) as caught:
        read_members(len(data), File(data))
    return str(caught.value)


@pytest.mark.parametrize("data", [archive(CONTENT), zipped(CONTENT)])
def test_members_are_found_where_their_bytes_are(data) -> None:
    found = members(data)
    assert list(found) == list(CONTENT)
    for name, content in CONTENT.items():
        start = data_offset(found[name], File(data))
        assert data[start : start + found[name].size] == content
        assert derived_offset(found[name]) == start
        assert found[name].plain


def test_a_descriptor_that_tells_nothing_takes_a_look_at_the_local_header() -> None:
    data = zipped(CONTENT, streamed=True)
    found = members(data)
    assert any(derived_offset(member) is None for member in found.values())
    for name, member in found.items():
        start = data_offset(member, File(data))
        assert derived_offset(member) in {start, None}
        assert data[start : start + member.size] == CONTENT[name]


def test_a_deflated_member_is_not_plain() -> None:
    found = members(zipped({"a": b"a" * 1000}, method=zipfile.ZIP_DEFLATED))
    assert not found["a"].plain
    assert (found["a"].method, found["a"].size) == (zip_directory.DEFLATED, 1000)


def test_the_numbers_of_large_files_are_in_the_extra_field() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out, out.open("a", "w", force_zip64=True) as member:
        member.write(b"abc")
    data = buffer.getvalue()
    at = data.index(b"PK\x01\x02")
    wide = struct.pack("<2HQQ", 1, 16, 3, 3)
    entry = bytearray(data[at : at + 46])
    struct.pack_into("<LL", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(wide))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 47 + len(wide), at, 0)
    found = members(data[:at] + entry + b"a" + wide + end)["a"]
    assert (found.size, found.packed) == (3, 3)
    assert refused(data[:at] + entry + b"a" + b"\x02\x00" + wide[2:] + end)


def test_one_read_finds_the_directory_of_a_small_file_and_two_that_of_a_large_one() -> None:
    small, large = File(archive(CONTENT)), File(archive({f"m/data/{i}": b"" for i in range(2000)}))
    for file, reads in ((small, 1), (large, 2)):
        read_members(len(file.data), file)
        assert file.reads == reads


def test_a_name_that_comes_twice_is_refused() -> None:
    assert "one name" in refused(archive({"a": b"1", "b": b"2"}).replace(b"b", b"a"))


@pytest.mark.parametrize(
    ("at", "value"),
    [(20, 10_000), (42, 0), (42, 2**31), (42, 5), (20, 0xFFFFFFFF), (28, 60_000), (30, 60_000), (34, 1), (0, 7)],
)
def test_an_entry_that_cannot_be_true_is_refused(at, value) -> None:
    data = bytearray(archive(CONTENT))
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L" if at in {20, 42, 0} else "<H", data, entry + at, value)
    refused(bytes(data))


@pytest.mark.parametrize(("at", "value"), [(-22 + 4, 1), (-22 + 8, 4), (-22 + 12, 9), (-22 + 16, 9), (-22 + 20, 1)])
def test_end_records_that_differ_are_refused(at, value) -> None:
    data = bytearray(archive(CONTENT))
    struct.pack_into("<H", data, len(data) + at, value)
    refused(bytes(data))


@pytest.mark.parametrize("at", [8, 32, 40, 48, 4])
def test_a_wide_end_record_that_is_elsewhere_or_says_otherwise_is_refused(at) -> None:
    data = bytearray(archive(CONTENT))
    place = data.rindex(b"PK\x06\x06") if at != 8 else data.rindex(b"PK\x06\x07")
    data[place + at] ^= 1
    refused(bytes(data))


@pytest.mark.parametrize(
    "cut", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"x" + d, lambda _: b"", lambda d: d[:40]]
)
def test_bytes_too_many_or_too_few_are_refused(cut) -> None:
    refused(cut(archive(CONTENT)))


def test_an_empty_zip_file_has_no_directory() -> None:
    assert "no directory" in refused(zipped({}))


def test_limits_hold(monkeypatch) -> None:
    data = archive(CONTENT)
    with pytest.raises(ZipError, match="over a limit"):
        raw_directory(len(data), File(data), 100)
    monkeypatch.setattr(zip_directory, "MAX_MEMBERS", 4)
    assert "over a limit" in refused(data)


@pytest.mark.parametrize("change", [0, 6, 8, 26, 30])
def test_a_local_header_that_differs_from_the_directory_is_refused(change) -> None:
    data = bytearray(archive(CONTENT))
    member = members(bytes(data))["m/data/0"]
    data[member.header + change] ^= 1
    with pytest.raises(ZipError, match="differs"):
        data_offset(member, File(bytes(data)))


def test_a_local_header_that_moves_the_data_behind_what_follows_is_refused() -> None:
    data = bytearray(archive(CONTENT))
    member = members(bytes(data))["m/data/0"]
    struct.pack_into("<H", data, member.header + 28, 60_000)
    with pytest.raises(ZipError, match="overlaps"):
        data_offset(member, File(bytes(data)))


def test_a_name_is_text_whatever_its_bytes() -> None:
    data = zipped({"aé": b"1"})
    assert "aé" in members(data)
    assert "aÃ\xff" in members(data.replace("é".encode(), b"\xc3\xff"))


def test_no_mutation_does_more_than_be_refused() -> None:
    source = random.Random(5)
    data = archive(CONTENT)
    start = data.index(b"PK\x01\x02")
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(start, len(data))] = source.choice((0, 1, 255, source.randrange(256)))
        file = File(bytes(changed))
        try:
            found = read_members(len(changed), file)
        except ZipError:
            continue
        assert all(member.header + 30 + member.packed <= member.end <= len(changed) for member in found)
