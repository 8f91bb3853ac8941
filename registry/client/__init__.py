"""The library: what `import registry` leads to. It shares only the JSON shapes with the server."""

from registry.client._client import Client, connect
from registry.client._diff import Diff
from registry.client._types import Progress, Transfer, Version, VersionSummary

__all__ = ["Client", "Diff", "Progress", "Transfer", "Version", "VersionSummary", "connect"]
