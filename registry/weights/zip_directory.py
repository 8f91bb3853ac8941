"""The directory of a zip file, read in bounds from the file's end. It says where the members are; nothing is unpacked.

    ┌──────────────┬──────┬────────────┬─────┬───────────┬───────────────┬────────────┐
    │ local header │ data │ descriptor │ ... │ directory │ zip64 records │ end record │
    └──────────────┴──────┴────────────┴─────┴───────────┴───────────────┴────────────┘

Readers of zip files disagree where a file contradicts itself, and what one of them scans is then not what another one
loads. So a file that does is refused: a member named twice, members that overlap, two ends, numbers of which the wide
and the narrow form differ, bytes after the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct

ReadAt = Callable[[int, int], bytes]

MAX_DIRECTORY = 16 * 2**20
"""Bytes of a directory that are read."""
MAX_MEMBERS = 2**17
"""A file of torch has one for each of up to 100,000 tensors, and a few more."""
STORED, DEFLATED = 0, 8
"""Methods: as it is, and by zlib."""
ENCRYPTED, DESCRIBED = 0x01, 0x08
"""Flags: needs a password; crc and sizes also follow the data."""

_TAIL = 22 + 65_535 + 20 + 56  # the end record, the longest comment, the locator and record of a zip64 end
_NARROW = Struct("<4s4H2LH")
_LOCATOR = Struct("<4sLQL")
_WIDE = Struct("<4sQ2H2L4Q")
_ENTRY = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s5H3L2H")
_EXTRA = Struct("<2H")
_ALIGNMENT = 64  # where torch lets data begin: at a multiple of it, or of a multiple of it


class ZipError(Exception):
    """The bytes are no zip file, contradict themselves, or are over a limit."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside: `packed` bytes of it lie between its local header, at `header`, and what follows, at `end`."""

    raw_name: bytes
    method: int
    flags: int
    crc: int
    size: int
    packed: int
    header: int
    end: int

    @property
    def name(self) -> str:
        """Its path inside, with `/` between folders."""
        return _text(self.raw_name)

    @property
    def plain(self) -> bool:
        """True if its bytes lie in the file as they are."""
        return self.method == STORED and not self.flags & ENCRYPTED and self.size == self.packed


def read_members(size: int, read: ReadAt) -> list[Member]:
    """Every member, in the order of the directory. Raises ZipError."""
    start, directory = raw_directory(size, read, MAX_DIRECTORY)
    entries = list(_entries(directory))
    if len({raw_name for raw_name, *_ in entries}) != len(entries):
        raise ZipError("two members have one name")
    places = sorted(place for *_, place in entries)
    ends = dict(pairwise([*places, start]))
    if len(ends) != len(entries):
        raise ZipError("two members lie at one place")
    members = [Member(*entry, ends[entry[-1]]) for entry in entries]
    for member in members:
        if member.header + _LOCAL.size + len(member.raw_name) + member.packed > member.end:
            raise ZipError(f"member {member.name!r} overlaps what follows it")
    return members


def raw_directory(size: int, read: ReadAt, limit: int) -> tuple[int, bytes]:
    """Where the directory starts, and its bytes, which end where the records after it start. Raises ZipError."""
    begin = max(0, size - _TAIL)
    tail = read(begin, size - begin)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _NARROW.size:
        raise ZipError("there is no end record")
    _, disk, first_disk, here, count, length, start, comment = _NARROW.unpack_from(tail, at)
    if at + _NARROW.size + comment != len(tail):
        raise ZipError("the end record is not at the end")
    end = begin + at
    if tail[max(0, at - _LOCATOR.size) : at].startswith(b"PK\x06\x07") and at >= _LOCATOR.size:
        end, wide = _wide_end(tail, at, begin, read)
        narrow = (disk, first_disk, here, count, length, start)
        if any(a not in {b, full} for a, b, full in zip(narrow, wide, _SATURATED, strict=True)):
            raise ZipError("the two end records differ")
        disk, first_disk, here, count, length, start = wide
    if disk or first_disk or here != count:
        raise ZipError("it is one of several volumes")
    if length > limit or count > MAX_MEMBERS:
        raise ZipError("the directory is over a limit")
    if start + length != end:
        raise ZipError("the directory does not end at its end record")
    directory = tail[start - begin : end - begin] if start >= begin else read(start, length)
    if len(directory) != length or count * _ENTRY.size > length:
        raise ZipError("the directory is cut short")
    if not directory.startswith(b"PK\x01\x02"):
        raise ZipError("there is no directory")
    return start, directory


_SATURATED = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
"""What a narrow end record says where only the wide one has room."""


def _wide_end(tail: bytes, at: int, begin: int, read: ReadAt) -> tuple[int, tuple[int, ...]]:
    """Where the zip64 end record is, and its numbers in the order of the narrow one."""
    locator = begin + at - _LOCATOR.size
    _, _, place, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
    if place + _WIDE.size > locator:
        raise ZipError("the zip64 end record is not where its locator says")
    record = tail[place - begin :][: _WIDE.size] if place >= begin else read(place, _WIDE.size)
    if len(record) != _WIDE.size or not record.startswith(b"PK\x06\x06"):
        raise ZipError("the zip64 end record is not where its locator says")
    _, rest, _, _, disk, first_disk, here, count, length, start = _WIDE.unpack(record)
    if place + 12 + rest != locator:
        raise ZipError("the zip64 end record does not end at its locator")
    return place, (disk, first_disk, here, count, length, start)


_Entry = tuple[bytes, int, int, int, int, int, int]


def _entries(directory: bytes) -> Iterator[_Entry]:
    """The fields of a Member, but its end."""
    at = number = 0
    while at < len(directory):
        number += 1
        if number > MAX_MEMBERS:
            raise ZipError("there are more members than the limit")
        if len(directory) - at < _ENTRY.size:
            raise ZipError("the directory is cut short")
        entry = _ENTRY.unpack_from(directory, at)
        signature, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, disk, _, _, header = entry
        names = at + _ENTRY.size
        extras = names + named
        at = extras + extra + comment
        if signature != b"PK\x01\x02" or at > len(directory) or disk not in {0, 0xFFFF}:
            raise ZipError("an entry of the directory is damaged")
        if 0xFFFFFFFF in {packed, size, header}:
            size, packed, header = _wide_numbers(directory[extras : extras + extra], size, packed, header)
        yield directory[names:extras], method, flags, crc, size, packed, header


def _wide_numbers(extra: bytes, *numbers: int) -> tuple[int, ...]:
    """The numbers, those without room in the entry taken from its zip64 field, in this order."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == 1:
            missing = [number for number in numbers if number == 0xFFFFFFFF]
            if length < 8 * len(missing) or at + length > len(extra):
                break
            found = iter(int.from_bytes(extra[at + 8 * i : at + 8 * i + 8], "little") for i in range(len(missing)))
            return tuple(next(found) if number == 0xFFFFFFFF else number for number in numbers)
        at += length
    raise ZipError("an entry of the directory lacks its zip64 numbers")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def derived_offset(member: Member) -> int | None:
    """Where the member's data begins, told from its neighbours alone; None if that takes a look at its local header.

    Without a descriptor the data ends where the next member begins. With one, of 16 or of 24 bytes, torch's alignment
    tells which. A local header that says otherwise was not written by torch, and misleads only about its own file.
    """
    for descriptor in (16, 24) if member.flags & DESCRIBED else (0,):
        start = member.end - descriptor - member.packed
        spare = start - member.header - _LOCAL.size - len(member.raw_name)
        if 0 <= spare <= 0xFFFF and (not descriptor or start % _ALIGNMENT == 0):
            return start
    return None


def data_offset(member: Member, read: ReadAt) -> int:
    """Where the member's data begins by its local header, which must agree with the directory. Raises ZipError."""
    raw = read(member.header, _LOCAL.size + len(member.raw_name))
    if len(raw) != _LOCAL.size + len(member.raw_name):
        raise ZipError("the file is cut short")
    signature, _, flags, method, _, _, _, _, _, named, extra = _LOCAL.unpack_from(raw)
    same = signature == b"PK\x03\x04" and method == member.method and not (flags ^ member.flags) & ENCRYPTED
    if not same or named != len(member.raw_name) or raw[_LOCAL.size :] != member.raw_name:
        raise ZipError(f"the local header of {member.name!r} differs from the directory")
    start: int = member.header + _LOCAL.size + named + extra
    if start + member.packed > member.end:
        raise ZipError(f"member {member.name!r} overlaps what follows it")
    return start
