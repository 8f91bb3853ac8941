"""Files whose usual loader unpickles, and so runs what they say: told from names and bytes, never by unpickling.

Doubt counts as a pickle: a flag too many stops a promotion that somebody can look at, one too few runs foreign code.
Not seen: pickles inside compressed files under another name, and the text protocols 0 and 1 under another name.
"""

import re
from collections.abc import Callable

PYTORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pt.tar", ".pth.tar", ".ptl", ".torchscript", ".nemo", ".mar")
"""`torch.save`, TorchScript, and archives around them."""
_PLAIN = (".pkl", ".pickle", ".p", ".pk", ".joblib", ".dill", ".cloudpickle")
_COMPRESSED = ("", ".gz", ".bz2", ".xz", ".lzma", ".z", ".zst", ".lz4")
PICKLE_SUFFIXES = tuple(plain + compressed for plain in _PLAIN for compressed in _COMPRESSED)
"""What Python, joblib and their relatives write."""

MAX_DIRECTORY = 8 * 2**20
"""Bytes of a zip's directory that are looked through; a larger one counts as holding a pickle."""
_TAIL = 22 + 65_535 + 20  # the end record, the longest comment, the locator of a zip64 end record
_MEMBER = re.compile(rb"\.(?:pkl|pickle|pt|pth|ckpt)", re.IGNORECASE)
_PROTOCOL = re.compile(rb"\x80[\x02-\x05][\x80-\x98().\[\]{}a-zA-Z]")
_NUMPY_OBJECTS = re.compile(rb"'descr':[^\n]*\|?O")


def sniff(size: int, read: Callable[[int, int], bytes]) -> str | None:
    """`pytorch` or `pickle` if the bytes look like one, whatever the name says; None if not."""
    head = read(0, min(size, 256))
    if head.startswith(b"PK\x03\x04"):
        return "pytorch" if _zip_has_pickle(size, read) else None
    if _PROTOCOL.match(head):
        return "pickle"
    if head.startswith(b"\x93NUMPY") and _NUMPY_OBJECTS.search(head):
        return "pickle"
    return None


def _zip_has_pickle(size: int, read: Callable[[int, int], bytes]) -> bool:
    """True if the zip's directory names a pickle, or cannot be read in bounds."""
    start = max(0, size - _TAIL)
    tail = read(start, size - start)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        return True
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    offset = int.from_bytes(tail[end + 16 : end + 20], "little")
    if offset == 0xFFFFFFFF or length == 0xFFFFFFFF:
        wide = _zip64(tail, end, size, read)
        if wide is None:
            return True
        length, offset = wide
    if length > MAX_DIRECTORY or offset + length > size:
        return True
    directory = read(offset, length)
    return not directory.startswith(b"PK\x01\x02") or _MEMBER.search(directory) is not None


def _zip64(tail: bytes, end: int, size: int, read: Callable[[int, int], bytes]) -> tuple[int, int] | None:
    """Length and offset of the directory from the zip64 end record, if it is where it should be."""
    locator = tail[end - 20 : end] if end >= 20 else b""
    if not locator.startswith(b"PK\x06\x07"):
        return None
    at = int.from_bytes(locator[8:16], "little")
    if at + 56 > size:
        return None
    record = read(at, 56)
    if not record.startswith(b"PK\x06\x06"):
        return None
    return int.from_bytes(record[40:48], "little"), int.from_bytes(record[48:56], "little")
