"""REGISTRY_HOME: everything the embedded stack keeps, in one folder that only its owner can read.

<home>/                     0700
├── lock                    held by every process of the stack; the kernel lets go of it when the last one dies
├── admin-token             0600, made once
├── admin-token.shown       the token was printed
├── registry.db             SQLite (unless REGISTRY_DATABASE_URL says otherwise)
├── seaweedfs/              what the S3 store keeps; never edited by hand
├── seaweedfs.json          0600, the S3 credentials, in the form SeaweedFS reads
└── logs/                   one file a process, and the one before it; bounded
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.domain.errors import LocalError


class HomeInUseError(LocalError):
    """Another `registry serve` runs on this home."""

    code = "HOME_IN_USE"
    remedy = "Stop the other `registry serve`, or give this one its own REGISTRY_HOME."


class HomeUnusableError(LocalError):
    """The home directory cannot be created, read or written."""

    code = "HOME_UNUSABLE"
    remedy = "Set REGISTRY_HOME to a folder that you own, on a disk with free space."


@dataclass(frozen=True, slots=True)
class Credentials:
    """The key pair that the embedded store and the server share."""

    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True)
class Home:
    """Paths inside one home, and the secrets that are made there once."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> "Home":
        """Create the folder, or tighten an existing one to its owner. Raises HomeUnusableError."""
        home = cls(root.expanduser().resolve())
        try:
            home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            home.root.chmod(0o700)
            home.logs.mkdir(mode=0o700, exist_ok=True)
            home.store.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HomeUnusableError(f"The home {home.root} cannot be used: {error.strerror or error}.") from error
        return home

    @property
    def store(self) -> Path:
        """Where the embedded S3 store keeps its files."""
        return self.root / "seaweedfs"

    @property
    def store_config(self) -> Path:
        """The store's identities, in its own JSON."""
        return self.root / "seaweedfs.json"

    @property
    def logs(self) -> Path:
        """Where each process writes what it says."""
        return self.root / "logs"

    @property
    def database_url(self) -> str:
        """The embedded database."""
        return f"sqlite:///{self.root / 'registry.db'}"

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the home. Yields the lock's descriptor: children that inherit it keep the home held while they live.

        Raises HomeInUseError if another process holds it.
        """
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                raise HomeInUseError(f"The home {self.root} is in use by process {holder}.") from error
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield handle
        finally:
            os.close(handle)

    def credentials(self) -> Credentials:
        """The store's random key pair, made at first use. Raises HomeUnusableError if its file is damaged."""
        made = Credentials(secrets.token_hex(10).upper(), secrets.token_urlsafe(30))
        pair = {"accessKey": made.access_key, "secretKey": made.secret_key}
        identity = {"name": "registry", "credentials": [pair], "actions": ["Admin"]}
        kept = self._once(self.store_config, json.dumps({"identities": [identity]}, indent=1))
        try:
            pair = json.loads(kept)["identities"][0]["credentials"][0]
            return Credentials(pair["accessKey"], pair["secretKey"])
        except (ValueError, LookupError, TypeError) as error:
            raise HomeUnusableError(f"The file {self.store_config} is damaged.") from error

    def admin_token(self) -> str:
        """The bootstrap administrator's token, made at first use."""
        return self._once(self.root / "admin-token", secrets.token_urlsafe(32)).strip()

    def first_showing(self) -> bool:
        """True once in the life of a home: the caller may now print the token."""
        try:
            (self.root / "admin-token.shown").touch(0o600, exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _once(self, path: Path, content: str) -> str:
        # Written whole and linked into place: a kill in the middle leaves either nothing or the complete secret.
        if not path.exists():
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        return path.read_text()
