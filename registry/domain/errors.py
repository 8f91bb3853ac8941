"""The one error tree. A leaf names a stable `code`; its kind decides the HTTP status (`registry/request.py`).

    RegistryError
    ├── InvalidError            the input is malformed or breaks a rule (400, 422)
    │   └── WeightsError        the bytes of a weight file break its format
    ├── UnauthenticatedError    no actor (401)
    ├── ForbiddenError          an actor without the right (403)
    ├── NotFoundError           no such thing, or none the actor may see (404)
    ├── ConflictError           the state does not allow it (409)
    ├── GoneError               it was there and was deleted (410)
    ├── PreconditionError       `If-Match` or its like did not hold (412)
    ├── TooLargeError           over a stated limit (413)
    ├── ExhaustedError          the server has no room left (507)
    ├── UnavailableError        a part we stand on is down; try again (503)
    └── LocalError              only on the client's side: bytes, files, network

Codes are API: never renamed, each documented in docs/errors.md. A message is one sentence that says what is wrong;
`remedy` says what to do about it. `details` are facts for programs (the winner of a race, the reasons of a refusal).
"""

from typing import Any, ClassVar


class RegistryError(Exception):
    """Root of every error this project raises on purpose.

    `code` is stable and upper case; `str(error)` is the message; `remedy` is one imperative sentence or empty.
    """

    code: ClassVar[str] = "REGISTRY_ERROR"
    remedy: str = ""

    def __init__(self, message: str, /, *, remedy: str | None = None, **details: Any) -> None:
        """Keep the sentence, the facts, and the remedy when the class's own is not specific enough."""
        super().__init__(message)
        self.details = details
        if remedy is not None:
            self.remedy = remedy

    @classmethod
    def leaves(cls) -> dict[str, type["RegistryError"]]:
        """Every error class that has a code of its own, by code."""
        found: dict[str, type[RegistryError]] = {}
        for child in cls.__subclasses__():
            if "code" in vars(child):
                found[child.code] = child
            found |= child.leaves()
        return found

    @classmethod
    def rebuild(cls, code: str, message: str, remedy: str, details: dict[str, Any]) -> "RegistryError":
        """The error another process raised, from what it told of it. An unknown code keeps its code."""
        known = RegistryError.leaves().get(code)
        if known is None:
            known = type("RemoteError", (RegistryError,), {"code": code})
        return known(message, remedy=remedy, **details)


class InvalidError(RegistryError):
    """The input is malformed or breaks a rule."""


class UnauthenticatedError(RegistryError):
    """Nobody is known to be asking."""


class ForbiddenError(RegistryError):
    """The actor is known and lacks the right."""


class NotFoundError(RegistryError):
    """There is no such thing, or none that the actor may see."""


class ConflictError(RegistryError):
    """The present state does not allow it."""


class GoneError(RegistryError):
    """It existed and was deleted."""


class PreconditionError(RegistryError):
    """A stated precondition did not hold."""


class TooLargeError(RegistryError):
    """Over a stated limit."""


class ExhaustedError(RegistryError):
    """The server has no room left."""


class UnavailableError(RegistryError):
    """A part the server stands on is down; the same request may succeed later."""


class VersionDamagedError(ConflictError):
    """The stored bytes of the version are known not to be what was published."""

    code = "VERSION_DAMAGED"
    remedy = (
        "Use another version, or push the same files again: what is damaged is sent anew and the version is mended."
    )


class LocalError(RegistryError):
    """Raised by the client about its own side: files, network, bytes that are not what was promised."""


class WeightsError(InvalidError):
    """The bytes of a weight file break the rules of its format."""
