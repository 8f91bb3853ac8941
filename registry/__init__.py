"""A registry for model weights: `registry.connect()` is where to start.

    client = registry.connect()  # REGISTRY_URL and REGISTRY_TOKEN, or what `registry login` kept
    version = client.push("vision/yolo11n", "best.safetensors", metrics={"mAP50-95": 0.42})
    client.promote(version.ref, to="production")

Names are loaded when first used, so that importing this package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.client import Client, Transfer, Version, connect
    from registry.domain.errors import (
        ConflictError,
        ExhaustedError,
        ForbiddenError,
        GoneError,
        InvalidError,
        LocalError,
        NotFoundError,
        PreconditionError,
        RegistryError,
        TooLargeError,
        UnauthenticatedError,
        UnavailableError,
        WeightsError,
    )

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ConflictError",
    "ExhaustedError",
    "ForbiddenError",
    "GoneError",
    "InvalidError",
    "LocalError",
    "NotFoundError",
    "PreconditionError",
    "RegistryError",
    "TooLargeError",
    "Transfer",
    "UnauthenticatedError",
    "UnavailableError",
    "Version",
    "WeightsError",
    "__version__",
    "connect",
]

_LIBRARY = frozenset({"Client", "Transfer", "Version", "connect"})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module("registry.client" if name in _LIBRARY else "registry.domain.errors")
    globals()[name] = found = getattr(home, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
