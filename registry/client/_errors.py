"""What can go wrong between this process and the server, and how the server's own errors come back to life."""

from collections.abc import Mapping
from typing import Any

from registry.domain import errors
from registry.domain.errors import LocalError, RegistryError, UnavailableError


class ServerUnknownError(LocalError):
    """Nobody has said which registry to talk to."""

    code = "SERVER_UNKNOWN"
    remedy = "Run 'registry login URL', or set REGISTRY_URL."


class ServerUrlError(LocalError):
    """The registry's address is not one."""

    code = "SERVER_URL_INVALID"
    remedy = "Write it like http://127.0.0.1:8080, without a user or password in it."


class ServerUnreachableError(UnavailableError):
    """No answer came from the registry's address, also after several attempts."""

    code = "SERVER_UNREACHABLE"
    remedy = "Check that the registry runs and that REGISTRY_URL, or the address you logged in to, is right."


class NotARegistryError(LocalError):
    """Something answers at the registry's address that is not a registry."""

    code = "NOT_A_REGISTRY"
    remedy = "Check REGISTRY_URL, or the address you logged in to; a proxy in between may have answered."


class ServerMovedError(LocalError):
    """The registry's address redirects elsewhere; the token is not sent after it."""

    code = "SERVER_MOVED"
    remedy = "If you trust the new address, log in to it with 'registry login URL'."


class CredentialsError(LocalError):
    """The file in which `registry login` keeps tokens cannot be read or written."""

    code = "CREDENTIALS_UNREADABLE"
    remedy = "Remove the file and run 'registry login URL' again."


class InvalidArgumentError(errors.InvalidError):
    """An argument has a value that no registry would take."""

    code = "INVALID_ARGUMENT"
    remedy = "Correct the value."


class NothingToPushError(LocalError):
    """The paths that were named hold no files."""

    code = "NOTHING_TO_PUSH"
    remedy = "Name at least one file, or a directory that holds some."


class OutsideLinkError(LocalError):
    """A directory holds a symbolic link that leads out of it, so that what it means may be no part of the model."""

    code = "LINK_OUTSIDE"
    remedy = "Replace the link by the file, or name the file itself."


class ArtifactNotMatchedError(errors.NotFoundError):
    """A pattern fits none of a version's artifacts."""

    code = "ARTIFACT_NOT_MATCHED"
    remedy = "List the artifacts with 'registry show REF'."


class TensorNotMatchedError(errors.NotFoundError):
    """A pattern fits none of a version's tensors."""

    code = "TENSOR_NOT_MATCHED"
    remedy = "Patterns are shell globs over the full name, such as 'model.0.*'."


class NoTensorsError(errors.InvalidError):
    """The version, or what was chosen of it, has no artifact whose tensors are known, so none can be loaded by name."""

    code = "NO_TENSORS"
    remedy = "Pull the version and open its files with the library that wrote them."


class TensorTwiceError(errors.ConflictError):
    """Two artifacts of the version have a tensor of the same name, so one dictionary cannot hold both."""

    code = "TENSOR_TWICE"
    remedy = "Say which artifact to load from with artifacts=[…]."


class FileDamagedError(LocalError):
    """A file that was pulled is not the published one, although each of its segments was when it came."""

    code = "FILE_DAMAGED"
    remedy = "Remove the file and pull again; check the disk if it happens again."


class PathOutsideError(LocalError):
    """A pulled file would be written outside the directory that was named, through a symbolic link."""

    code = "PATH_OUTSIDE"
    remedy = "Remove the link, or pull into another directory."


_KINDS: Mapping[int, type[RegistryError]] = {
    400: errors.InvalidError,
    401: errors.UnauthenticatedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.GoneError,
    412: errors.PreconditionError,
    413: errors.TooLargeError,
    422: errors.InvalidError,
    429: errors.UnavailableError,
    503: errors.UnavailableError,
    507: errors.ExhaustedError,
}
_PROBLEM_FIELDS = frozenset({"type", "title", "status", "detail", "code", "remedy"})


def from_problem(status: int, problem: Mapping[str, Any]) -> RegistryError:
    """The error that a `problem+json` document tells of. `details` also carries its `request_id`.

    A leaf this process does not know becomes its kind, by the status, under the server's code: `except NotFoundError`
    works for errors that a newer server invents.
    """
    code, message, remedy = (str(problem.get(name, "")) for name in ("code", "detail", "remedy"))
    details = {name: value for name, value in problem.items() if name not in _PROBLEM_FIELDS}
    if code in RegistryError.leaves():
        return RegistryError.rebuild(code, message, remedy, details)
    error = _KINDS.get(status, RegistryError)(message, remedy=remedy, **details)
    error.__dict__["code"] = code or f"HTTP_{status}"
    return error


def version_damaged(ref: str) -> RegistryError:
    """The server's own error for a version whose stored bytes are not what was published, raised on this side."""
    detail = f"The stored bytes of {ref} are not what was published."
    remedy = "Use another version; tell whoever runs the registry."
    return from_problem(409, {"code": "VERSION_DAMAGED", "detail": detail, "remedy": remedy, "version": ref})
