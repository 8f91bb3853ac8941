"""A pull: what the reference means, which of its bytes are missing here, and those from the store, verified.

Each file is either the old one or the whole new one. What an interrupted pull has finished is not fetched again.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from registry.client._api import Api, at
from registry.client._cache import Cache
from registry.client._download import fetch_file
from registry.client._errors import ArtifactNotMatchedError, FileDamagedError, version_damaged
from registry.client._folder import Artifact, Folder
from registry.client._hashing import verify_file
from registry.client._layout import Layout
from registry.client._local import LocalSegments
from registry.client._types import Progress, Transfer, Version
from registry.domain.digest import parse_digest
from registry.domain.names import parse_model
from registry.domain.paths import check_artifact_paths
from registry.domain.references import Reference, parse_reference
from registry.wire import ResolveOut

# How often the notes are brought up to date while files arrive: what they do not name is read again to be recognised.
_NOTE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a reference means: a version and its files."""

    model: str
    number: int
    digest: str
    artifacts: tuple[Artifact, ...]
    parents: tuple[str, ...] = ()


def pull(
    api: Api,
    cache: Cache,
    ref: str,
    *,
    target: Path | None,
    globs: Sequence[str],
    verify: bool,
    progress: Progress | None,
) -> Path:
    """Make the directory hold the version, and say which it is. Without a target it is the version's in the cache.

    Raises what the server answers (VERSION_DAMAGED too), ArtifactNotMatchedError, FileDamagedError, PathOutsideError,
    and the errors of `fetch_file`.
    """
    reference = parse_reference(ref)
    content = _known(cache, reference, target, globs) or content_of(api, reference)
    return bring(api, cache, content, target, matching(content, globs), verify=verify, progress=progress).path


def bring(
    api: Api,
    cache: Cache,
    content: Content,
    target: Path | None,
    wanted: Sequence[Artifact],
    *,
    verify: bool = False,
    progress: Progress | None = None,
) -> Folder:
    """Make the directory, or without a target the version's in the cache, hold these artifacts of the version.

    Of several processes that want the same, one fetches and the others wait for it. Raises as `pull` does.
    """
    started = time.time()
    folder = _folder(cache, content, target)

    def waiting() -> None:
        if progress is not None:
            progress("wait", 0, 0)

    with folder.locked(waiting):
        folder = Folder.read(folder.path)
        moved = _Pull(api, cache, content, folder, progress).run(wanted, verify=verify)
    if target is None and moved.moved:
        cache.make_room(unused_since=started)
    if progress is not None:
        progress("moved", moved.moved, moved.total)
    return folder


def content_of(api: Api, reference: Reference) -> Content:
    """Ask the server. Raises what it answers, VERSION_DAMAGED, and InvalidPathError for paths not to be trusted."""
    number = reference.number
    model = str(reference.model)
    if number is None:
        found = api.get("/resolve", ResolveOut, ref=str(reference))
        model, number = found.model, found.number
    version = api.get(at("models", model, "versions", number), Version)
    if version.integrity == "damaged":
        raise version_damaged(version.ref)
    artifacts = tuple(
        Artifact(each.path, each.size, parse_digest(each.digest), each.tensor_count) for each in version.artifacts
    )
    check_artifact_paths(artifact.path for artifact in artifacts)
    parents = tuple(parent.ref for parent in version.parents if parent.ref is not None)
    return Content(version.model, version.number, parse_digest(version.digest), artifacts, parents)


def matching(content: Content, globs: Sequence[str]) -> list[Artifact]:
    """The artifacts that any of the patterns fits; all if there are none. Raises ArtifactNotMatchedError."""
    for glob in globs:
        if not any(fnmatchcase(artifact.path, glob) for artifact in content.artifacts):
            message = f"No artifact of {content.model}:{content.number} fits {glob!r}."
            raise ArtifactNotMatchedError(message, pattern=glob)
    return [
        artifact
        for artifact in content.artifacts
        if not globs or any(fnmatchcase(artifact.path, glob) for glob in globs)
    ]


def kept(folder: Folder, reference: Reference) -> Content | None:
    """What a digest means, if this directory was pulled from it. Nothing is said about what is still there."""
    if reference.digest is None or folder.digest != reference.digest:
        return None
    return Content(folder.model, folder.number, folder.digest, folder.artifacts)


def _known(cache: Cache, reference: Reference, target: Path | None, globs: Sequence[str]) -> Content | None:
    """The content of a digest reference, if all of it that is asked for lies in the target or in the cache."""
    if reference.digest is None:
        return None
    places = [cache.folder(reference.model, reference.digest)]
    if target is not None:
        places.append(Folder.read(target))
    for folder in places:
        content = kept(folder, reference)
        if content is not None and all(folder.holds(artifact) for artifact in matching(content, globs)):
            return content
    return None


def _folder(cache: Cache, content: Content, target: Path | None) -> Folder:
    return cache.folder(parse_model(content.model), content.digest) if target is None else Folder.read(target)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size == size
    except OSError:
        return False


class _Pull:
    def __init__(self, api: Api, cache: Cache, content: Content, folder: Folder, progress: Progress | None) -> None:
        self._api = api
        self._cache = cache
        self._content = content
        self._folder = folder
        self._progress = progress
        self._total = self._done = self._moved = 0
        self._noted_at = time.monotonic()

    def run(self, wanted: Sequence[Artifact], *, verify: bool) -> Transfer:
        folder, content = self._folder, self._content
        self._total = sum(artifact.size for artifact in wanted)
        missing = []
        for artifact in wanted:
            if folder.holds(artifact) or self._adopt(artifact):
                self._advance(artifact.size)
            else:
                missing.append(artifact)
        try:
            self._fetch(missing)
            if verify:
                self._verify(wanted)
            folder.clear_out({artifact.path: artifact for artifact in wanted})
            folder.model, folder.number, folder.digest = content.model, content.number, content.digest
            folder.artifacts = content.artifacts
        finally:
            folder.write()
        return Transfer(self._total, self._moved)

    def _adopt(self, artifact: Artifact) -> bool:
        """Recognise a file that is there already, whoever brought it, by reading it."""
        if self._folder.is_untouched(artifact.path):
            return False  # an older version's
        target = self._folder.place(artifact.path)
        if not _has_size(target, artifact.size) or not verify_file(target, artifact.digest):
            return False
        self._folder.note(artifact, ())
        return True

    def _fetch(self, missing: Sequence[Artifact]) -> None:
        if not missing:
            return
        kept = self._cache.folder(parse_model(self._content.model), self._content.digest)
        reuse = self._local(kept)
        for artifact in missing:
            layout = Layout(self._api, self._content.model, self._content.number, artifact.path)
            pieces = kept.files[artifact.path].pieces if kept.holds(artifact) else []
            if sum(piece.size for piece in pieces) != artifact.size:
                pieces = layout.all()
            target = self._folder.place(artifact.path)
            if artifact.path not in self._folder.files and _has_size(target, artifact.size):
                reuse.add(target, pieces)  # somebody else's; files of one size are often cut alike
            report = fetch_file(target, pieces, layout.sign, size=artifact.size, reuse=reuse, progress=self._advance)
            self._moved += report.fetched_bytes
            self._folder.note(artifact, pieces)
            if time.monotonic() - self._noted_at > _NOTE_SECONDS:
                self._folder.write()
                self._noted_at = time.monotonic()

    def _local(self, kept: Folder) -> LocalSegments:
        """What lies here: in the directory itself, and in versions that are kept."""
        here = LocalSegments()
        content = self._content
        others = self._cache.relatives(parse_model(content.model), content.parents, but=content.digest)
        for folder in (self._folder, kept, *others):
            for path, held in folder.files.items():
                here.add(folder.path / path, held.pieces)
        return here

    def _verify(self, wanted: Iterable[Artifact]) -> None:
        for artifact in wanted:
            path = self._folder.path / artifact.path
            if not verify_file(path, artifact.digest):
                self._folder.files.pop(artifact.path, None)
                raise FileDamagedError(f"{path} does not have the sha256 that was published.", path=str(path))

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress("fetch", self._done, self._total)
