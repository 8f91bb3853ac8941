"""Where an artifact lies inside its version: a path that every disk can hold and no disk can be hurt by.

What is published on Linux is pulled on Windows and macOS too, so a path must mean the same file on all of them and
stay inside the directory it is pulled into.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from registry.domain.errors import InvalidError, TooLargeError
from registry.domain.names import shown

MAX_PATHS: Final = 10_000
MAX_PATH: Final = 1_024  # bytes in UTF-8
MAX_PART: Final = 255  # bytes in UTF-8: what common file systems hold
MAX_DEPTH: Final = 32
SIDECAR: Final = ".registry"  # the client keeps its own notes there beside pulled files

_WINDOWS_CHARACTERS = re.compile(r'[<>:"|?*\\]')  # a colon also names drives and alternate streams
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(?:\..*)?", re.IGNORECASE)
_GIT = re.compile(r"\.git.*|git~[0-9]+", re.IGNORECASE)  # `GIT~1` is what NTFS calls `.git` for old programs
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # controls, joiners that HFS+ ignores, surrogates, line ends


class InvalidPathError(InvalidError):
    """An artifact's path is one that some disk cannot hold or that could leave its directory."""

    code = "INVALID_PATH"
    remedy = "Rename the file, or leave it out."


class PathCollisionError(InvalidError):
    """Two artifacts of a version would be the same file, or one the directory of the other, on some disk."""

    code = "PATH_COLLISION"
    remedy = "Rename one of the two."


class TooManyArtifactsError(TooLargeError):
    """A version has more files than the limit."""

    code = "TOO_MANY_ARTIFACTS"
    remedy = f"Pack the small files into one archive; a version holds at most {MAX_PATHS:,}."


def check_artifact_path(path: str, /) -> str:
    """Check one path: relative, with `/` between its parts. Raises InvalidPathError, which says what is wrong."""
    reason = _fault(path)
    if reason:
        raise InvalidPathError(f"The artifact path {shown(path)} {reason}.", path=path)
    return path


def check_artifact_paths(paths: Iterable[str], /) -> None:
    """Check all paths of a version, each alone and against the others.

    Raises InvalidPathError, PathCollisionError or TooManyArtifactsError.
    """
    spellings: dict[str, str] = {}  # of every file and directory, by what a case-insensitive disk makes of it
    files: set[str] = set()
    directories: set[str] = set()
    for count, path in enumerate(paths, start=1):
        if count > MAX_PATHS:
            raise TooManyArtifactsError(f"The version has more than {MAX_PATHS:,} artifacts.", limit=MAX_PATHS)
        check_artifact_path(path)
        if path in files:
            raise PathCollisionError(f"The artifact {shown(path)} is listed twice.", path=path, other=path)
        files.add(path)
        parents = _parents(path)
        directories.update(parents)
        for prefix in (*parents, path):
            other = spellings.setdefault(_on_any_disk(prefix), prefix)
            if other != prefix:
                raise PathCollisionError(
                    f"The artifact paths {shown(other)} and {shown(prefix)} differ only in case.",
                    path=prefix,
                    other=other,
                )
    for path in sorted(files & directories):
        raise PathCollisionError(f"The artifact {shown(path)} is also a directory.", path=path, other=f"{path}/")


def _parents(path: str) -> list[str]:
    return [path[:index] for index, character in enumerate(path) if character == "/"]


def _on_any_disk(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def _fault(path: str) -> str | None:
    """Say what is wrong with `path`, as the rest of a sentence about it."""
    if not path:
        return "is empty"
    if any(unicodedata.category(character) in _INVISIBLE for character in path):
        return "holds control or invisible characters"
    if len(path.encode()) > MAX_PATH:
        return f"is longer than {MAX_PATH:,} bytes"
    if path.startswith("/"):
        return "is absolute"
    if not unicodedata.is_normalized("NFC", path):
        return "is not in Unicode's composed form (NFC)"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} levels deep"
    if parts[0].casefold() == SIDECAR:
        return f"is in {SIDECAR}, which the client keeps for itself"
    return next(filter(None, map(_fault_of_part, parts)), None)


def _fault_of_part(part: str) -> str | None:
    if not part:
        return "has an empty part"
    if part in (".", ".."):
        return f"holds {part!r}"
    if len(part.encode()) > MAX_PART:
        return f"has a part longer than {MAX_PART} bytes"
    if _GIT.fullmatch(part):
        return "holds a name that belongs to git"
    if part[-1] in ". ":
        return "has a part that ends in a dot or space"
    if found := _WINDOWS_CHARACTERS.search(part):
        return f"holds {found.group()!r}, which is no part of a file's name on Windows"
    if _WINDOWS_DEVICE.fullmatch(part):
        return "holds the name of a Windows device"
    return None
