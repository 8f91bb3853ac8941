"""The client: one object for one registry, with a method for each thing a person or program does there."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from registry.client import _credentials, _load, _pull, _push, _sources
from registry.client._accounts import Accounts
from registry.client._api import LONG_TIMEOUT, Api, at, checked
from registry.client._arguments import Metrics, listed, metrics_in, plain
from registry.client._cache import Cache
from registry.client._diff import Comparisons
from registry.client._events import Events
from registry.client._follow import Following
from registry.client._promotions import Promotions
from registry.client._types import Progress, Ref, Version, VersionSummary
from registry.client._webhooks import Webhooks
from registry.config import ClientConfig
from registry.domain import names
from registry.domain.references import parse_parent, parse_reference
from registry.wire import (
    AliasIn,
    AliasOut,
    ArtifactIn,
    CommitIn,
    CopyIn,
    CountOut,
    HealthOut,
    LineageItem,
    MetricOut,
    MetricsIn,
    ModelIn,
    ModelOut,
    ModelPatch,
    Objective,
    ResolveOut,
    StorageOut,
    TagIn,
    TensorOut,
    VersionPatch,
)

Paths = str | Path | Sequence[str | Path]


def connect(url: str | None = None, token: str | None = None) -> "Client":
    """A client of the registry at `url`, else at REGISTRY_URL, else at the one `registry login` was given.

    Nothing is sent yet. Raises ServerUnknownError, ServerUrlError or CredentialsError.
    """
    return Client(*_credentials.find(url, token, ClientConfig.from_environment()))


class Client(Accounts, Comparisons, Events, Following, Promotions, Webhooks):
    """A registry, as one actor sees it. Safe to share between threads; `with` it, or `close` it.

    A reference is text such as `vision/yolo11n@production`, or a version that another method returned. Every method
    raises what the server answers: a RegistryError with a stable `code`.
    """

    def __init__(self, url: str, token: str, *, cache: Path | None = None) -> None:
        """`connect` is the usual way to make one."""
        config = ClientConfig.from_environment()
        self._api = Api(url, token)
        self._cache = Cache(cache or config.cache, limit=config.cache_size_gb * 10**9)

    def __repr__(self) -> str:
        return f"<registry.Client of {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    @property
    def url(self) -> str:
        """The registry's address."""
        return self._api.url

    # --- weights ---

    def push(
        self,
        name: str,
        paths: Paths,
        *,
        metrics: Metrics = (),
        params: Mapping[str, Any] | None = None,
        parents: Sequence[Ref] = (),
        message: str = "",
        checkpoint: bool = False,
        variant: str | None = None,
        new: bool = False,
        run: str | None = None,
        tags: Mapping[str, str] | None = None,
        aliases: Sequence[str] = (),
        class_names: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Version:
        """Publish files, or the files in directories, as a version of a model, which is created if it is new.

        Pushing the same again gives the same version (`created` is false) and adds metrics and tags; `new` forces a
        number. What the registry has already is not sent: `transfer` says what was. A push that was interrupted, for
        whatever reason, goes on when it is repeated.
        """
        model = str(names.parse_model(name))
        for alias in aliases:
            names.check_pointer(alias)
        for key, value in (tags or {}).items():
            names.check_tag(key, value)
        facts: dict[str, Any] = {
            "kind": "checkpoint" if checkpoint else "release",
            "variant": variant,
            "message": message,
            "params": plain(params or {}),
            "class_names": list(class_names),
            "run": run,
            "metrics": metrics_in(metrics),
            "tags": dict(tags or {}),
            "aliases": list(aliases),
            "new": new,
        }
        placeholder = [{"path": "-", "size": 0, "digest": f"sha256:{'0' * 64}", "segments": []}]
        checked(CommitIn, artifacts=placeholder, **facts)  # refused now rather than after hours of sending
        files = _sources.sources([Path(path) for path in listed(paths)])
        facts["parents"] = [self._parent(parent) for parent in parents]

        def commit(artifacts: list[ArtifactIn]) -> CommitIn:
            return checked(CommitIn, artifacts=artifacts, **facts)

        return _push.push(self._api, model, files, commit, progress=progress)

    def pull(
        self,
        ref: Ref,
        directory: str | Path | None = None,
        *,
        artifacts: Sequence[str] = (),
        verify_file: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Make `directory` hold the version, and return it. Without one it is the version's place in the cache.

        Only bytes that are missing here travel, each verified as it lands: what an older version in the directory, or
        any version in the cache, has in common with this one is copied. Each file is replaced in one step. Files of
        an older version that a pull had written are removed unless they were changed. `artifacts` are globs that
        choose files; `verify_file` reads every file again at the end and compares its sha256.
        A digest reference whose bytes are all here needs no registry. The cache makes room for what comes: a version
        that has to stay needs a directory of its own.
        """
        target = None if directory is None else Path(directory)
        return _pull.pull(
            self._api,
            self._cache,
            _text(ref),
            target=target,
            globs=list(listed(artifacts)),
            verify=verify_file,
            progress=progress,
        )

    def load(
        self,
        ref: Ref,
        tensors: Sequence[str] = (),
        *,
        framework: Literal["numpy", "torch"] = "numpy",
        artifacts: Sequence[str] = (),
        mmap: bool = False,
    ) -> dict[str, Any]:
        """Tensors of the version, by name, in memory: all, or those that a glob fits. Nothing is unpickled.

        From the cache if the version was pulled into it; else only the bytes of these tensors are fetched. Without
        `artifacts` they come from the safetensors files, or if there are none from any whose tensors are known (GGUF,
        ONNX, torch). numpy has no bfloat16: such tensors come as float32, exactly; torch keeps every type; blocks of
        quantized types come as their bytes.
        With `mmap` whole files are brought into the cache, once for all processes of this machine, and the arrays lie
        over them: pages are shared until somebody writes to them, which changes no file.
        """
        return _load.load(
            self._api,
            self._cache,
            _text(ref),
            tensors=list(listed(tensors)),
            framework=framework,
            artifacts=list(listed(artifacts)),
            mapped=mmap,
        )

    def copy(self, ref: Ref, to: str, *, message: str | None = None) -> Version:
        """Publish the version in another model or namespace; its bytes are copied by the store, not sent."""
        body = checked(CopyIn, to=str(names.parse_model(to)), message=message)
        return self._api.send("POST", self._path(ref, "copy"), body, Version, timeout=LONG_TIMEOUT)

    # --- models and versions ---

    def models(self, *, namespace: str | None = None, limit: int | None = None) -> Iterator[ModelOut]:
        """Every model the actor can see."""
        return self._api.pages("/models", ModelOut, limit=limit, namespace=namespace)

    def model(self, name: str) -> ModelOut:
        """One model."""
        return self._api.get(_model(name), ModelOut)

    def create_model(self, name: str, *, description: str = "", objective: Objective | None = None) -> ModelOut:
        """Create a model before its first version; `push` does it too."""
        body = checked(ModelIn, name=str(names.parse_model(name)), description=description, objective=objective)
        return self._api.send("POST", "/models", body, ModelOut)

    def update_model(self, name: str, **changes: Any) -> ModelOut:
        """Change a model's `description` or `objective`; what is not named stays."""
        return self._api.send("PATCH", _model(name), checked(ModelPatch, **changes), ModelOut)

    def resolve(self, ref: Ref) -> ResolveOut:
        """What a reference means now."""
        return self._api.get("/resolve", ResolveOut, ref=str(parse_reference(_text(ref))))

    def version(self, ref: Ref) -> Version:
        """A version whole."""
        return self._api.get(self._path(ref), Version)

    def versions(
        self,
        name: str,
        *,
        kind: Literal["release", "checkpoint"] | None = None,
        state: Literal["ready", "trashed"] | None = None,
        limit: int | None = None,
    ) -> Iterator[VersionSummary]:
        """The versions of a model, newest first."""
        return self._api.pages(f"{_model(name)}/versions", VersionSummary, limit=limit, kind=kind, state=state)

    def health(self, ref: Ref) -> HealthOut:
        """What a worker found in the tensors of a version: counts, NaN, norms, drift, names of tensors at fault."""
        return self._api.get(self._path(ref, "health"), HealthOut)

    def tensors(self, ref: Ref, artifact: str) -> Iterator[TensorOut]:
        """The tensors of one file of a version: where they lie and, once a worker has read them, what is in them."""
        return self._api.pages(self._path(ref, "tensors"), TensorOut, artifact=artifact)

    def describe(self, ref: Ref, message: str) -> Version:
        """Change a version's message."""
        return self._api.send("PATCH", self._path(ref), checked(VersionPatch, message=message), Version)

    def delete(self, ref: Ref) -> None:
        """Put a version into the trash. What a stage, an alias or a child needs stays (`VERSION_IN_USE`)."""
        self._api.do("DELETE", self._path(ref))

    def restore(self, ref: Ref) -> Version:
        """Take a version, by its number, out of the trash."""
        return self._api.send("POST", self._path(ref, "restore"), None, Version)

    def metrics(self, ref: Ref) -> Iterator[MetricOut]:
        """Every number measured on a version, with where and by whom."""
        return self._api.pages(self._path(ref, "metrics"), MetricOut)

    def log_metrics(self, ref: Ref, metrics: Metrics) -> int:
        """Add numbers measured on a version; returns how many."""
        body = checked(MetricsIn, metrics=metrics_in(metrics))
        return self._api.send("POST", self._path(ref, "metrics"), body, CountOut).added

    def lineage(
        self, ref: Ref, *, direction: Literal["up", "down"] = "up", depth: int | None = None
    ) -> Iterator[LineageItem]:
        """What a version was made from (`up`), or what was made from it (`down`)."""
        return self._api.pages(self._path(ref, "lineage"), LineageItem, direction=direction, depth=depth)

    # --- names ---

    def aliases(self, name: str) -> Iterator[AliasOut]:
        """The aliases of a model."""
        return self._api.pages(f"{_model(name)}/aliases", AliasOut)

    def set_alias(self, ref: Ref, alias: str) -> AliasOut:
        """Make `NAME@alias` mean this version."""
        model, number = self._locate(ref)
        path = at("models", model, "aliases", names.check_pointer(alias))
        return self._api.send("PUT", path, checked(AliasIn, number=number), AliasOut)

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias."""
        self._api.do("DELETE", f"{_model(name)}{at('aliases', alias)}")

    def set_tag(self, ref: Ref, key: str, value: str) -> None:
        """Set a tag of a version."""
        names.check_tag(key, value)
        self._api.do("PUT", self._path(ref, "tags", key), checked(TagIn, value=value))

    def remove_tag(self, ref: Ref, key: str) -> None:
        """Remove a tag of a version."""
        self._api.do("DELETE", self._path(ref, "tags", key))

    def set_model_tag(self, name: str, key: str, value: str) -> None:
        """Set a tag of a model."""
        names.check_tag(key, value)
        self._api.do("PUT", f"{_model(name)}/tags{at(key)}", checked(TagIn, value=value))

    def remove_model_tag(self, name: str, key: str) -> None:
        """Remove a tag of a model."""
        self._api.do("DELETE", f"{_model(name)}/tags{at(key)}")

    # --- the registry itself ---

    def storage(self, *, namespace: str | None = None) -> StorageOut:
        """What versions add up to, and what is stored for them."""
        return self._api.get("/storage", StorageOut, namespace=namespace)

    def _locate(self, ref: Ref) -> tuple[str, int]:
        """Model and number of a reference; only one that moves needs a request."""
        reference = parse_reference(_text(ref))
        if reference.number is not None:
            return str(reference.model), reference.number
        found = self.resolve(ref)
        return found.model, found.number

    def _path(self, ref: Ref, *more: object) -> str:
        model, number = self._locate(ref)
        return at("models", model, "versions", number, *more)

    def _parent(self, parent: Ref) -> str:
        """A parent as the server takes it, its reference fixed to what it means before anything is sent."""
        if not isinstance(parent, str):
            return parent.ref
        parsed = parse_parent(parent)
        if parsed.reference is None:
            return parent
        found = self.resolve(str(parsed.reference))
        return f"{parsed.relation}={found.model}:{found.number}"


def _text(ref: Ref) -> str:
    return ref if isinstance(ref, str) else ref.ref


def _model(name: str) -> str:
    return at("models", names.parse_model(name))
