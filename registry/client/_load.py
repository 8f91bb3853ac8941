"""Tensors by name into memory: from files that were pulled, by mmap, else only the segments that hold them."""

import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from registry.client._api import Api
from registry.client._cache import Cache
from registry.client._download import BadLayoutError, fetch_into
from registry.client._errors import InvalidArgumentError, NoTensorsError, TensorNotMatchedError, TensorTwiceError
from registry.client._folder import Artifact, Folder
from registry.client._hashing import Piece
from registry.client._layout import Layout
from registry.client._pull import Content, content_of, kept, matching
from registry.domain.names import parse_model
from registry.domain.references import Reference, parse_reference
from registry.weights import safetensors
from registry.weights.arrays import as_array, as_torch
from registry.weights.errors import TorchMissingError
from registry.weights.tensors import Header, Tensor

_SUFFIX = ".safetensors"
_BUILDERS: Mapping[str, Callable[[Tensor, memoryview], Any]] = {"numpy": as_array, "torch": as_torch}


def load(
    api: Api, cache: Cache, ref: str, *, tensors: Sequence[str], framework: str, artifacts: Sequence[str]
) -> dict[str, Any]:
    """The tensors that any of the patterns fits, or all; in the order of their names.

    Raises what the server answers (VERSION_DAMAGED too), NoTensorsError, TensorNotMatchedError, TensorTwiceError,
    InvalidArgumentError, TorchMissingError, and the errors of `fetch_into`.
    """
    if framework not in _BUILDERS:
        raise InvalidArgumentError(f"framework is {framework!r}, not 'numpy' or 'torch'.")
    if framework == "torch" and find_spec("torch") is None:
        raise TorchMissingError("The tensors were asked for as torch tensors without torch.")
    reference = parse_reference(ref)
    content = _kept(cache, reference, artifacts) or content_of(api, reference)
    folder = cache.folder(parse_model(content.model), content.digest)
    found: dict[str, tuple[Tensor, memoryview]] = {}
    for artifact in _weights(content, artifacts):
        source = _Cached(folder, artifact) if folder.holds(artifact) else _Remote(api, content, artifact)
        wanted = [tensor for tensor in source.header.tensors if _fits(tensor.name, tensors)]
        for tensor, view in source.read(wanted):
            if tensor.name in found:
                raise TensorTwiceError(f"Tensor {tensor.name!r} is in more than one artifact of {ref}.")
            found[tensor.name] = tensor, view
    _check_used(ref, tensors, found)
    build = _BUILDERS[framework]
    return {name: build(*found[name]) for name in sorted(found)}


def _kept(cache: Cache, reference: Reference, globs: Sequence[str]) -> Content | None:
    """The content of a digest reference, if the weights that are asked for lie in the cache."""
    if reference.digest is None:
        return None
    folder = cache.folder(reference.model, reference.digest)
    content = kept(folder, reference)
    if content is None or not all(folder.holds(artifact) for artifact in _weights(content, globs)):
        return None
    return content


def _weights(content: Content, globs: Sequence[str]) -> list[Artifact]:
    found = [artifact for artifact in matching(content, globs) if artifact.path.lower().endswith(_SUFFIX)]
    if not found:
        raise NoTensorsError(f"{content.model}:{content.number} has no safetensors artifact to load from.")
    return found


def _fits(name: str, globs: Sequence[str]) -> bool:
    return not globs or any(fnmatchcase(name, glob) for glob in globs)


def _check_used(ref: str, globs: Iterable[str], names: Iterable[str]) -> None:
    known = list(names)
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in known):
            raise TensorNotMatchedError(f"No tensor of {ref} fits {glob!r}.", pattern=glob)


class _Cached:
    """A file in the cache. Its pages are shared until somebody writes to an array; the file never changes."""

    def __init__(self, folder: Folder, artifact: Artifact) -> None:
        folder.touch()
        with Path(folder.path / artifact.path).open("rb") as file:
            self._view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        size = safetensors.header_size(bytes(self._view[: safetensors.PREFIX]), artifact.size)
        self.header: Header = safetensors.parse(bytes(self._view[:size]), artifact.size)

    def read(self, tensors: Iterable[Tensor]) -> list[tuple[Tensor, memoryview]]:
        """The bytes of each tensor."""
        return [(tensor, self._view[tensor.offset : tensor.offset + tensor.size]) for tensor in tensors]


class _Remote:
    """An artifact in the store, of which only the segments that are needed are fetched."""

    def __init__(self, api: Api, content: Content, artifact: Artifact) -> None:
        self._artifact = artifact
        self._layout = Layout(api, content.model, content.number, artifact.path)
        self._head = b""
        self.header: Header = self._read_header()

    def read(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, memoryview]]:
        """The bytes of each tensor. A segment of one tensor lands where it stays; a pack of several is taken apart."""
        found = [(tensor, _allocate(tensor.size)) for tensor in tensors]
        end = max((tensor.offset + tensor.size for tensor in tensors if tensor.size), default=0)
        if not end:
            return found
        buffers: dict[Piece, memoryview] = {}
        copies: list[tuple[memoryview, memoryview]] = []
        pieces = iter(self._layout.until(end))
        piece = next(pieces, None)
        for tensor, view in found:  # by offset, as the header gives them
            position, stop = tensor.offset, tensor.offset + tensor.size
            while position < stop:
                while piece is not None and piece.offset + piece.size <= position:
                    piece = next(pieces, None)
                if piece is None or piece.offset > position:
                    raise self._does_not_fit(position)
                until = min(stop, piece.offset + piece.size)
                part = view[position - tensor.offset : until - tensor.offset]
                if len(part) == piece.size:
                    buffers[piece] = part
                else:
                    pack = buffers.setdefault(piece, _allocate(piece.size))
                    copies.append((part, pack[position - piece.offset : until - piece.offset]))
                position = until
        fetch_into(buffers, self._layout.sign, name=self._artifact.path)
        for to, source in copies:
            to[:] = source
        return found

    def _read_header(self) -> Header:
        """The header is cut off from the tensors, but a client of another version may have cut elsewhere."""
        size = safetensors.header_size(self._start(safetensors.PREFIX), self._artifact.size)
        return safetensors.parse(self._start(size), self._artifact.size)

    def _start(self, size: int) -> bytes:
        """The first bytes of the artifact, in whole segments; those that came before are kept."""
        have = len(self._head)
        pieces = [piece for piece in self._layout.until(size) if have <= piece.offset < size]
        buffers = {piece: _allocate(piece.size) for piece in pieces}
        fetch_into(buffers, self._layout.sign, name=self._artifact.path)
        self._head = b"".join((self._head, *buffers.values()))
        if len(self._head) < size:
            raise self._does_not_fit(len(self._head))
        return self._head[:size]

    def _does_not_fit(self, position: int) -> BadLayoutError:
        path = self._artifact.path
        return BadLayoutError(f"The segments of {path} do not fit together at byte {position:,}.", artifact=path)


def _allocate(size: int) -> memoryview:
    return np.empty(size, np.uint8).data
