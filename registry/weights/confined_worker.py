"""The process that looks into users' files for `confined`: `python -m registry.weights.confined_worker SECONDS BYTES`.

It has one open connection, on its standard input, and no file, network or setting: the bytes of a file come over that
connection, as answers to `read`. A job that takes more SECONDS of processor time ends the process, by the kernel's
hand; one that wants more BYTES than an idle process has, by its own.

    frame   kind (1 byte) │ length (u32) │ content
    to it     J  a job: {"what": "facts" or "index", "path", "size"}   D  the bytes asked for
    from it   R  a read: offset and size (u64 each)                    F  the result
              E  an error of ours    M  out of memory                  X  a bug
"""

import gc
import json
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from registry.domain.errors import RegistryError
from registry.weights import formats, sharded
from registry.weights.formats import Facts
from registry.weights.tensors import Header, Part, Tensor

HEAD: Final = struct.Struct("<cI")
RANGE: Final = struct.Struct("<QQ")
LARGEST_READ: Final = 4 * 2**20
"""A larger one is asked for in pieces, so that neither side holds it twice."""
_CONNECTION: Final = 0


def as_facts(told: dict[str, Any]) -> Facts:
    """The facts that a worker told."""
    header = Header(
        _tensors(told["tensors"]),
        told["metadata"],
        told["header_size"],
        None if told["parts"] is None else tuple(Part(*each) for each in told["parts"]),
        {location: _tensors(each) for location, each in told["elsewhere"].items()},
    )
    return Facts(told["format"], told["pickle"], formats.NO_HEADER if header == formats.NO_HEADER else header)


def as_told(facts: Facts) -> dict[str, Any]:
    """The other way: facts as JSON can hold them."""
    header = facts.header
    return {
        "format": facts.format,
        "pickle": facts.pickle,
        "tensors": _listed(header.tensors),
        "metadata": header.metadata,
        "header_size": header.size,
        "parts": None if header.parts is None else [(each.name, each.offset, each.size) for each in header.parts],
        "elsewhere": {location: _listed(each) for location, each in header.elsewhere.items()},
    }


def main() -> int:
    """Do one job after the other until the other side is gone."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    gc.freeze()
    _limit_itself(memory)
    while True:
        kind, content = _receive()
        if kind != b"J":
            return 1
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            kind, answer = _answer(json.loads(content))
        except MemoryError:
            _send(b"M", b"")
            return 0
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        _send(kind, answer)
        del content, answer
        gc.collect()


def _limit_itself(memory: int) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - pathlib would be loaded for one line
        pages = int(file.read().split()[0])
    allowed = pages * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(job: dict[str, Any]) -> tuple[bytes, bytes]:
    try:
        done = _JOBS[job["what"]](job["path"], job["size"])
    except RegistryError as error:
        told = {"code": error.code, "message": str(error), "remedy": error.remedy, "details": error.details}
        return b"E", json.dumps(told).encode()
    except RecursionError:
        return b"M", b""
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - told to the other side, which raises it
        return b"X", traceback.format_exc().encode("utf-8", "replace")
    return b"F", json.dumps(done, separators=(",", ":")).encode()


def _facts(path: str, size: int) -> dict[str, Any]:
    return as_told(formats.facts(path, size, _read))


def _index(_path: str, size: int) -> dict[str, Any]:
    index = sharded.parse_index(_read(0, size))
    return {"weight_map": index.weight_map, "total_size": index.total_size}


_JOBS: Final[dict[str, Callable[[str, int], dict[str, Any]]]] = {"facts": _facts, "index": _index}


def _read(offset: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        _send(b"R", RANGE.pack(offset + len(found), min(size - len(found), LARGEST_READ)))
        kind, piece = _receive()
        if kind != b"D":
            sys.exit(1)
        if not piece:
            break
        found += piece
    return bytes(found)


def _send(kind: bytes, content: bytes) -> None:
    left = memoryview(HEAD.pack(kind, len(content)) + content)
    while left:
        left = left[os.write(_CONNECTION, left) :]


def _receive() -> tuple[bytes, bytes]:
    kind, length = HEAD.unpack(_exactly(HEAD.size))
    return kind, _exactly(length)


def _exactly(size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(_CONNECTION, size)
        if not piece:
            sys.exit(0)  # whoever asked is gone
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _listed(tensors: tuple[Tensor, ...]) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    return [(each.name, each.dtype, each.shape, each.offset, each.size) for each in tensors]


def _tensors(listed: list[Any]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, tuple(shape), offset, size) for name, dtype, shape, offset, size in listed)


if __name__ == "__main__":
    sys.exit(main())
