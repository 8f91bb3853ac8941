"""Files of `torch.save`, understood without torch and without running them.

    NAME/data.pkl       what was saved, as a pickle in which tensors refer to storages
    NAME/data/0 …       the storages: plain bytes
    NAME/byteorder      of the storages
    NAME/version

TorchScript archives have the same form, and code besides. Not such a file: legacy ones, which are pickles in a row;
zip files of others; files in big-endian order. For those there is no header, and neither is there for a zip file that
contradicts itself: what ends in `.pt` counts as a pickle whatever it is, and is published as bytes. If only the pickle
is damaged or over a limit, the file is still cut at its members, and has no tensors.

Reads are few, for on a server each is a request: the end, the beginning, and small members in passing. Where a storage
begins is told from the directory alone as far as it follows torch's own layout.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from registry.weights import pickle_reader, torch_tensors
from registry.weights.pickle_reader import MAX_PICKLE
from registry.weights.pickle_values import Pickle, PickleError
from registry.weights.tensors import Header, Part
from registry.weights.zip_directory import (
    DEFLATED,
    ENCRYPTED,
    Member,
    ReadAt,
    ZipError,
    data_offset,
    derived_offset,
    read_members,
)

MAX_READS = 1_000
"""Reads of local headers, for storages that are not laid out as torch does it; others then have no place."""
_AHEAD = 64 * 2**10
_SMALL = 64
_MAX_ALIASES = 1_000


@dataclass(frozen=True, slots=True)
class Archive:
    """A file of torch: its members, the folder they are in, and its pickle, or why that cannot be read.

    `globals` are the names in the pickle, also in one that cannot be read. `crc` is whether the pickle's checksum is
    right: torch does not look, and can be told not to write it, but other readers refuse such a file.
    """

    folder: str
    members: dict[str, Member]
    offsets: dict[str, int]
    """Where data begins, of the members of which it is known, by name without the folder."""
    pickle: Pickle | None
    problem: str
    globals: tuple[tuple[str, str], ...]
    crc: bool


def header(size: int, read: ReadAt) -> Header | None:
    """Tensors and members of a file of `torch.save`; None for any other file. Reads only what it must."""
    nearby = _nearby(size, read)
    archive = open_archive(size, nearby)
    if archive is None or _small(archive, "byteorder", nearby, default=b"little") != b"little":
        return None
    facts = {
        "torch.version": _small(archive, "version", nearby).decode("ascii", "replace").strip(),
        "torch.members": str(len(archive.members)),
        "torch.globals": str(len(archive.globals)),
    }
    found = _tensors(archive)
    archive = replace(archive, pickle=None)  # it may be large
    if found is None:
        return Header((), facts | {"torch.pickle": "unreadable"}, 0, _parts(archive, {}))
    facts["torch.unlisted"] = str(found.unlisted)
    facts["torch.aliases"] = str(len(found.aliases))
    if found.aliases and len(found.aliases) <= _MAX_ALIASES:
        facts["torch.alias_of"] = json.dumps(dict(found.aliases), ensure_ascii=False)
    return Header(found.tensors, facts, 0, _parts(archive, found.storages))


def open_archive(size: int, read: ReadAt) -> Archive | None:
    """The archive, its pickle read but never run; None if the file is no zip file of torch."""
    try:
        members = read_members(size, read)
        folder = members[0].name.partition("/")[0] + "/"
        named = ((member.name, member) for member in members)
        inside = {name.removeprefix(folder): member for name, member in named if name.startswith(folder)}
        main = inside.get("data.pkl")
        # torch takes a name in any case, and only a file that begins with a member for a zip file
        twice = sum(member.raw_name.lower() == f"{folder}data.pkl".lower().encode() for member in members) > 1
        if main is None or twice or "version" not in inside or read(0, 4) != b"PK\x03\x04":
            return None
        start = data_offset(main, read)
    except ZipError:
        return None
    offsets = _offsets(inside, read) | {"data.pkl": start}
    pickled, problem, crc = None, "", True
    names: tuple[tuple[str, str], ...] = ()
    try:
        raw = _unpacked(main, read(start, main.packed) if main.packed <= MAX_PICKLE else None)
        crc = zlib.crc32(raw) == main.crc
        pickled = pickle_reader.parse(raw)
        names = pickled.globals
    except PickleError as fault:
        problem, names = str(fault), fault.globals
    return Archive(folder, inside, offsets, pickled, problem, names, crc)


def _unpacked(member: Member, data: bytes | None) -> bytes:
    """The member's content, from its bytes in the file. Raises PickleError, for it is mostly the pickle's."""
    if data is None or member.size > MAX_PICKLE or member.flags & ENCRYPTED:
        raise PickleError("the pickle is encrypted or larger than the limit")
    if len(data) == member.packed:
        if member.plain:
            return data
        if member.method == DEFLATED:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflate.decompress(data, member.size + 1)
            except zlib.error:
                data = b""
            if len(data) == member.size and inflate.eof:
                return data
    raise PickleError("the pickle cannot be unpacked")


def _offsets(members: dict[str, Member], read: ReadAt) -> dict[str, int]:
    """Where members begin. A local header is read only where the directory alone does not tell."""
    offsets = {}
    reads = 0
    for name, member in members.items():
        start = derived_offset(member)
        if start is None and reads < MAX_READS:
            reads += 1
            try:
                start = data_offset(member, read)
            except ZipError:
                continue
        if start is not None:
            offsets[name] = start
    return offsets


def _tensors(archive: Archive) -> torch_tensors.Found | None:
    def place(key: str) -> tuple[int, int] | None:
        member = archive.members.get(f"data/{key}")
        offset = archive.offsets.get(f"data/{key}")
        return None if member is None or offset is None or not member.plain else (offset, member.size)

    if archive.pickle is None:
        return None
    try:
        return torch_tensors.find(archive.pickle.value, place)
    except torch_tensors.TooManyTensorsError:
        return None


def _parts(archive: Archive, storages: Mapping[str, str]) -> tuple[Part, ...]:
    """Members that hold anything, as they lie. A storage is named after its first tensor: numbers shift, names stay."""
    parts = [
        Part(storages.get(name.removeprefix("data/"), name), offset, archive.members[name].packed)
        for name, offset in archive.offsets.items()
        if archive.members[name].packed
    ]
    return tuple(sorted(parts, key=lambda part: part.offset))


def _small(archive: Archive, name: str, read: ReadAt, *, default: bytes = b"") -> bytes:
    """A member of a few bytes; the default if there is none."""
    member = archive.members.get(name)
    if member is None or name not in archive.offsets:
        return default
    with suppress(PickleError):
        return _unpacked(member, read(archive.offsets[name], min(member.packed, _SMALL)))[:_SMALL].strip()
    return b""


def _nearby(size: int, read: ReadAt) -> Callable[[int, int], bytes]:
    """`read`, but a short read takes in what lies around it, and is not asked for again while the next are close."""
    begin, held = 0, b""

    def nearby(offset: int, length: int) -> bytes:
        nonlocal begin, held
        if length > _AHEAD:
            return read(offset, length)
        if not begin <= offset <= offset + length <= begin + len(held):
            begin = offset
            held = read(begin, min(_AHEAD, size - begin))
        return held[offset - begin : offset - begin + length]

    return nearby
