"""What a file is: told from its name and a few bounded reads. Nothing is unpickled, extracted, imported or run.

A format is one row of FORMATS; one that knows its tensors brings a function that reads its header.
"""

from collections.abc import Callable
from dataclasses import dataclass

from registry.weights import gguf, onnx, pickles, safetensors, torch_zip
from registry.weights.tensors import Header

ReadAt = Callable[[int, int], bytes]
"""`read(offset, size)`: the bytes there, fewer only at the end of the file."""


NO_HEADER = Header((), {}, 0)
"""Of a file that says nothing about itself, or nothing that the registry reads."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the registry knows of a file. `pickle` means: loading it the usual way can run code that it carries."""

    format: str
    pickle: bool
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class Format:
    """One row: names that end so are of this format.

    `header`, if there is one, then reads what such a file says about itself, within bounds. It raises the format's
    error if the name promises what the bytes do not keep, and gives None for a relative of the format that the registry
    stores without looking inside. `inline` means that its time follows the bytes it reads, so that a server may read a
    small header where it is instead of handing the file to `confined`.
    """

    name: str
    suffixes: tuple[str, ...]
    media_type: str
    pickle: bool = False
    header: Callable[[int, ReadAt], Header | None] | None = None
    inline: bool = False


def _safetensors(size: int, read: ReadAt) -> Header:
    total = safetensors.header_size(read(0, min(size, safetensors.PREFIX)), size)
    return safetensors.parse(read(0, total), size)


_OCTETS = "application/octet-stream"
_JSON = "application/json"

FORMATS = (
    Format("safetensors", (".safetensors",), "application/x-safetensors", header=_safetensors, inline=True),
    Format("safetensors-index", (".safetensors.index.json",), _JSON),
    Format("pytorch", pickles.PYTORCH_SUFFIXES, "application/x-pytorch", pickle=True, header=torch_zip.header),
    Format("pickle", pickles.PICKLE_SUFFIXES, "application/x-pickle", pickle=True),
    Format("gguf", (".gguf",), "application/x-gguf", header=gguf.header),
    Format("onnx", (".onnx",), "application/x-onnx", header=onnx.header),
    Format("opaque", (".json",), _JSON),
    Format("opaque", (".jsonl", ".ndjson"), "application/x-ndjson"),
    Format("opaque", (".txt", ".log"), "text/plain"),
    Format("opaque", (".md",), "text/markdown"),
    Format("opaque", (".yaml", ".yml"), "application/yaml"),
    Format("opaque", (".toml",), "application/toml"),
    Format("opaque", (".csv",), "text/csv"),
    Format("opaque", (".zip",), "application/zip"),
    Format("opaque", (".png",), "image/png"),
    Format("opaque", (".jpg", ".jpeg"), "image/jpeg"),
)
"""Every format by the ends of its names; the longest end that fits wins. Nothing that a browser would run is named."""

_OPAQUE = Format("opaque", (), _OCTETS)
_BY_SUFFIX = {suffix: row for row in FORMATS for suffix in row.suffixes}


def media_type(path: str) -> str:
    """The media type by the file's name alone: the same on every machine, whatever the host has configured."""
    return format_of(path).media_type


def facts(path: str, size: int, read: ReadAt) -> Facts:
    """What the file at `path` is, from its name, its header and, for pickles, a look at both of its ends.

    Raises the error of the format if the name promises one and the bytes do not keep the promise.
    """
    row = format_of(path)
    header = None if row.header is None else row.header(size, read)
    if header is not None:
        return Facts(row.name, row.pickle, header)
    sniffed = None if row.pickle else pickles.sniff(size, read)
    return Facts(sniffed or row.name, row.pickle or sniffed is not None)


def header_of(path: str, size: int, read: ReadAt) -> Header | None:
    """The file's header if its format has one that can be read; raises as `facts` does."""
    row = format_of(path)
    return None if row.header is None else row.header(size, read)


def format_of(path: str) -> Format:
    """The row whose suffix is the longest that the name ends with."""
    name = path.rpartition("/")[2].lower()
    start = name.find(".")
    while start >= 0:
        row = _BY_SUFFIX.get(name[start:])
        if row is not None:
            return row
        start = name.find(".", start + 1)
    return _OPAQUE
