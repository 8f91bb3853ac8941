"""Tensors by name into memory: from files that were pulled, by mmap, else only the segments that hold them.

Which tensors a file has, the registry tells: nothing is opened by the library that wrote it, so what a pickle would
run is never run.
"""

import mmap
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any, Protocol

from registry.client._api import Api, at
from registry.client._arrivals import Arrival, sinks
from registry.client._cache import Cache
from registry.client._download import BadLayoutError, fetch_each
from registry.client._errors import InvalidArgumentError, NoTensorsError, TensorNotMatchedError, TensorTwiceError
from registry.client._folder import Artifact, Folder
from registry.client._hashing import cores
from registry.client._layout import Layout
from registry.client._pull import Content, bring, content_of, kept, matching
from registry.domain.names import parse_model
from registry.domain.references import Reference, parse_reference
from registry.weights import formats
from registry.weights.arrays import as_array, as_torch
from registry.weights.errors import TorchMissingError
from registry.weights.tensors import BITS, Tensor
from registry.wire import TensorOut

_SAFETENSORS = ".safetensors"
# Artifacts whose tensors are asked for at once: a sharded model has many.
_SHARDS_AT_ONCE = 8
_FRAMEWORKS = {"numpy": as_array, "torch": as_torch}


class _Source(Protocol):
    """An artifact, of which tensors can be read."""

    tensors: Sequence[Tensor]

    def read(self, wanted: Sequence[Tensor], framework: str) -> Iterable[tuple[str, Any]]:
        """The arrays of some of its tensors, by name."""


def load(
    api: Api,
    cache: Cache,
    ref: str,
    *,
    tensors: Sequence[str],
    framework: str,
    artifacts: Sequence[str],
    mapped: bool,
) -> dict[str, Any]:
    """The tensors that any of the patterns fits, or all; in the order of their names.

    Raises what the server answers (VERSION_DAMAGED too), NoTensorsError, TensorNotMatchedError, TensorTwiceError,
    InvalidArgumentError, TorchMissingError, and the errors of `fetch_each`; with `mapped` those of a pull as well.
    """
    if framework not in _FRAMEWORKS:
        raise InvalidArgumentError(f"framework is {framework!r}, not 'numpy' or 'torch'.")
    if framework == "torch" and find_spec("torch") is None:
        raise TorchMissingError("The tensors were asked for as torch tensors without torch.")
    reference = parse_reference(ref)
    content = _kept(cache, reference, artifacts) or content_of(api, reference)
    chosen = _chosen(content, artifacts)
    folder = cache.folder(parse_model(content.model), content.digest)
    if mapped and not all(folder.holds(artifact) for artifact in chosen):
        folder = bring(api, cache, content, None, chosen)
    with ThreadPoolExecutor(min(len(chosen), _SHARDS_AT_ONCE)) as threads:
        sources = list(threads.map(lambda artifact: _source(api, content, folder, artifact), chosen))
    wanted = [[tensor for tensor in source.tensors if _fits(tensor.name, tensors)] for source in sources]
    _check(ref, tensors, [tensor.name for each in wanted for tensor in each])
    found: dict[str, Any] = {}
    for source, each in zip(sources, wanted, strict=True):
        found.update(source.read(each, framework))
    return {name: found[name] for name in sorted(found)}


def _kept(cache: Cache, reference: Reference, globs: Sequence[str]) -> Content | None:
    """The content of a digest reference, if the weights that are asked for lie in the cache."""
    if reference.digest is None:
        return None
    folder = cache.folder(reference.model, reference.digest)
    content = kept(folder, reference)
    if content is None or not all(folder.holds(artifact) for artifact in _chosen(content, globs)):
        return None
    return content


def _chosen(content: Content, globs: Sequence[str]) -> list[Artifact]:
    """The artifacts with tensors. Unless they are named, those of another format give way to safetensors."""
    safe = {artifact.path for artifact in content.artifacts if artifact.path.lower().endswith(_SAFETENSORS)}
    found = [artifact for artifact in matching(content, globs) if artifact.tensors or artifact.path in safe]
    if not globs:
        found = [artifact for artifact in found if artifact.path in safe] or found
    if not found:
        raise NoTensorsError(f"{content.model}:{content.number} has no artifact whose tensors are known.")
    return found


def _fits(name: str, globs: Sequence[str]) -> bool:
    return not globs or any(fnmatchcase(name, glob) for glob in globs)


def _check(ref: str, globs: Iterable[str], names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise TensorTwiceError(f"Tensor {name!r} is in more than one artifact of {ref}.")
        seen.add(name)
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in seen):
            raise TensorNotMatchedError(f"No tensor of {ref} fits {glob!r}.", pattern=glob)


def _source(api: Api, content: Content, folder: Folder, artifact: Artifact) -> _Source:
    if folder.holds(artifact):
        # Nothing is locked: whoever makes room in the cache meanwhile only takes the file's name away.
        with suppress(FileNotFoundError):
            return _Mapped(api, content, folder, artifact)
    return _Remote(api, content, artifact)


def _listed(api: Api, content: Content, artifact: Artifact) -> list[Tensor]:
    """The artifact's tensors as the registry knows them, which is checked."""
    path = at("models", content.model, "versions", content.number, "tensors")
    found = []
    for each in api.pages(path, TensorOut, artifact=artifact.path):
        tensor = Tensor(each.name, each.dtype, tuple(each.shape), each.offset, each.size)
        if not _is_possible(tensor, artifact.size):
            message = f"Tensor {tensor.name!r} of {artifact.path} cannot be where the registry says."
            raise BadLayoutError(message, artifact=artifact.path, tensor=tensor.name)
        found.append(tensor)
    return found


def _is_possible(tensor: Tensor, size: int) -> bool:
    if min(tensor.shape, default=0) < 0 or not 0 <= tensor.offset <= tensor.offset + tensor.size <= size:
        return False
    bits = BITS.get(tensor.dtype)
    if bits is None:
        return True
    for dimension in tensor.shape:
        bits *= dimension
    return (bits + 7) // 8 == tensor.size


class _Mapped:
    """A file in the cache. Its pages are shared until somebody writes to an array; the file never changes."""

    def __init__(self, api: Api, content: Content, folder: Folder, artifact: Artifact) -> None:
        folder.touch()
        descriptor = os.open(folder.path / artifact.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = formats.header_of(
                artifact.path, artifact.size, lambda offset, length: os.pread(descriptor, length, offset)
            )
            self._view = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) if artifact.size else b"")
        finally:
            os.close(descriptor)
        self.tensors: Sequence[Tensor] = _listed(api, content, artifact) if header is None else header.tensors

    def read(self, wanted: Sequence[Tensor], framework: str) -> Iterable[tuple[str, Any]]:
        """Arrays over the file's pages, or what numpy has no type for, widened on every core."""
        build = _FRAMEWORKS[framework]

        def one(tensor: Tensor) -> tuple[str, Any]:
            return tensor.name, build(tensor, self._view[tensor.offset : tensor.offset + tensor.size])

        with ThreadPoolExecutor(cores()) as threads:
            return list(threads.map(one, wanted))


class _Remote:
    """An artifact in the store, of which only the segments that are needed are fetched."""

    def __init__(self, api: Api, content: Content, artifact: Artifact) -> None:
        self._artifact = artifact
        self._layout = Layout(api, content.model, content.number, artifact.path)
        self.tensors: Sequence[Tensor] = _listed(api, content, artifact)

    def read(self, wanted: Sequence[Tensor], framework: str) -> Iterable[tuple[str, Any]]:
        """Arrays in memory of their own, into which the bytes were received."""
        arrivals = [Arrival(tensor, framework) for tensor in wanted]
        path = self._artifact.path
        end = max((tensor.offset + tensor.size for tensor in wanted if tensor.size), default=0)
        if end:
            try:
                landing = list(sinks(arrivals, self._layout.until(end)))
            except ValueError as failure:
                message = f"The segments of {path} do not fit together at byte {failure.args[0]:,}."
                raise BadLayoutError(message, artifact=path) from None
            fetch_each(landing, self._layout.sign, name=path)
        return [(arrival.tensor.name, arrival.build()) for arrival in arrivals]
