"""Files whose usual loader unpickles, and so runs what they say: told from names and bytes, never by unpickling.

Doubt counts as a pickle: a flag too many stops a promotion that somebody can look at, one too few runs foreign code.
Not seen: pickles inside compressed files under another name, and the text protocols 0 and 1 under another name.
"""

import re
from collections.abc import Callable

from registry.weights.zip_directory import ZipError, raw_directory

PYTORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pt.tar", ".pth.tar", ".ptl", ".torchscript", ".nemo", ".mar")
"""`torch.save`, TorchScript, and archives around them."""
_PLAIN = (".pkl", ".pickle", ".p", ".pk", ".joblib", ".dill", ".cloudpickle")
_COMPRESSED = ("", ".gz", ".bz2", ".xz", ".lzma", ".z", ".zst", ".lz4")
PICKLE_SUFFIXES = tuple(plain + compressed for plain in _PLAIN for compressed in _COMPRESSED)
"""What Python, joblib and their relatives write."""

MAX_DIRECTORY = 8 * 2**20
"""Bytes of a zip's directory that are looked through; a larger one counts as holding a pickle."""
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
    try:
        _, directory = raw_directory(size, read, MAX_DIRECTORY)
    except ZipError:
        return True
    return _MEMBER.search(directory) is not None
