"""Which files a push means, what their paths in the version are, and whether they may be published at all.

Everything that the server would refuse for the files' sake is refused here, before a byte moves.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.client._errors import NothingToPushError, OutsideLinkError
from registry.client._hashing import FileChangedError, Span, UnreadableFileError
from registry.domain.errors import WeightsError
from registry.domain.paths import SIDECAR, check_artifact_paths
from registry.weights import contents, external, formats, segments, sharded
from registry.weights.tensors import Header


@dataclass(frozen=True, slots=True)
class Source:
    """A file, its path in the version, its size, and where it is cut."""

    artifact: str
    path: Path
    size: int
    spans: tuple[Span, ...]


def sources(paths: Sequence[Path]) -> list[Source]:
    """The files to push. A file is an artifact under its own name; a directory gives its files, relative to itself.

    Raises NothingToPushError, OutsideLinkError, UnreadableFileError, the errors of `check_artifact_paths`, and the
    WeightsError of a file that is not what its name says.
    """
    found = [each for path in paths for each in _artifacts(path)]
    if not found:
        raise NothingToPushError(f"There are no files in {', '.join(map(str, paths)) or 'what was named'}.")
    check_artifact_paths(artifact for artifact, _ in found)
    looked = {artifact: _look(artifact, path) for artifact, path in found}
    headers = {artifact: header for artifact, (_, header) in looked.items() if header is not None}
    given = external.headers(headers, {artifact: size for artifact, (size, _) in looked.items()})
    planned = [
        _plan(artifact, path, looked[artifact][0], looked[artifact][1] or given.get(artifact))
        for artifact, path in found
    ]
    _check_shards(planned, headers)
    return planned


def _artifacts(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_dir():
        yield from _walk(path, path.resolve(), "", frozenset())
    elif path.is_file():
        yield path.name, path
    else:
        reason = "is not a file or directory" if path.exists() else "does not exist"
        raise UnreadableFileError(f"{path} {reason}.", path=str(path))


def _walk(folder: Path, root: Path, prefix: str, above: frozenset[Path]) -> Iterator[tuple[str, Path]]:
    """Files below `folder`, in order of name. A link is followed if it stays inside `root` and does not loop."""
    here = folder.resolve()
    if here in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as failure:
        raise UnreadableFileError(f"{folder} cannot be read: {failure.strerror}.", path=str(folder)) from failure
    for entry in entries:
        if not prefix and entry.name == SIDECAR:
            continue
        if entry.is_symlink() and not entry.resolve().is_relative_to(root):
            raise OutsideLinkError(f"{entry} is a symbolic link that leads out of {root}.", path=str(entry))
        if entry.is_dir():
            yield from _walk(entry, root, f"{prefix}{entry.name}/", above | {here})
        elif entry.is_file():
            yield f"{prefix}{entry.name}", entry
        else:
            raise UnreadableFileError(f"{entry} is not a file or directory.", path=str(entry))


@contextmanager
def _opened(artifact: str, path: Path) -> Iterator[int]:
    """A descriptor of the file. What goes wrong meanwhile is told as one error that names it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except WeightsError as error:
        raise _naming(artifact, error) from None
    except OSError as failure:
        raise UnreadableFileError(f"{path} cannot be read: {failure.strerror}.", path=str(path)) from failure


def _look(artifact: str, path: Path) -> tuple[int, Header | None]:
    """The file's size, and its header if it has one that can be read."""
    with _opened(artifact, path) as file:
        size = os.fstat(file).st_size
        return size, formats.header_of(artifact, size, lambda offset, length: os.pread(file, length, offset))


def _plan(artifact: str, path: Path, size: int, header: Header | None) -> Source:
    if header is not None:
        cut = segments.cut(size, header)
    else:
        with _opened(artifact, path) as file:
            cut = contents.cut(size, lambda buffer: os.readv(file, [buffer]))
    return Source(artifact, path, size, tuple((span.offset, span.size) for span in cut))


def _check_shards(planned: Sequence[Source], headers: dict[str, Header]) -> None:
    for source in planned:
        if not sharded.is_index(source.artifact):
            continue
        try:
            with source.path.open("rb") as file:
                data = file.read(sharded.MAX_INDEX + 1)
            if len(data) != min(source.size, sharded.MAX_INDEX + 1):
                raise FileChangedError(f"{source.path} changed while it was being read.", path=str(source.path))
            sharded.check_shards(source.artifact, sharded.parse_index(data), headers)
        except OSError as failure:
            message = f"{source.path} cannot be read: {failure.strerror}."
            raise UnreadableFileError(message, path=str(source.path)) from failure
        except WeightsError as error:
            raise _naming(source.artifact, error) from None


def _naming(artifact: str, error: WeightsError) -> WeightsError:
    """The same error, saying which of the files it is about."""
    if artifact in str(error):
        return error
    return type(error)(f"{artifact}: {error}", remedy=error.remedy, **(error.details | {"artifact": artifact}))
