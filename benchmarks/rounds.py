"""Sides that are compared: round after round in turned order, each run in a process of its own, medians of all.

A side is a function of `benchmarks.ours` or `benchmarks.others`: it is given a job (JSON), prepares what is not to be
counted, and returns what is. The clock and the processor time run from the call of that to its return.
"""

import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Action = Callable[[], Mapping[str, Any] | None]

_ROOT = Path(__file__).parents[1]
_BLOCK = 16 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. `facts` are what the side itself said."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A side under a name, with its job. `side` is `module.function` within this package."""

    label: str
    side: str
    job: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)


class SideFailedError(Exception):
    """A side did not do what was to be measured."""


class Runs:
    """Every run of every case, in the order of the rounds."""

    def __init__(self) -> None:
        """There are none yet."""
        self._runs: dict[str, list[Measured]] = {}

    def add(self, label: str, measured: Measured) -> None:
        """Keep one more."""
        self._runs.setdefault(label, []).append(measured)

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __getitem__(self, label: str) -> list[Measured]:
        return self._runs[label]

    def seconds(self, label: str) -> float:
        """The median time."""
        return statistics.median(run.seconds for run in self[label])

    def cpu(self, label: str) -> float:
        """The median processor time of the client."""
        return statistics.median(run.cpu_seconds for run in self[label])

    def peak(self, label: str) -> float:
        """The most memory that any run had, in MB."""
        return max(run.peak_bytes for run in self[label]) / 1e6

    def fact(self, label: str, name: str) -> float:
        """The median of something a side said."""
        return float(statistics.median(run.facts[name] for run in self[label]))

    def times(self, base: str, label: str) -> float:
        """How many times as fast as `base`: the median of the rounds' own ratios, since noise comes in waves."""
        pairs = zip(self[base], self[label], strict=True)
        return statistics.median(theirs.seconds / ours.seconds for theirs, ours in pairs)

    def row(self, label: str, size: int, *bases: str) -> tuple[str | float, ...]:
        """Label, MB/s, times as fast as each base, CPU seconds a GiB, peak MB, and the seconds of each round."""
        ratios = (self.times(base, label) if base in self._runs else "" for base in bases)
        taken = " ".join(f"{run.seconds:.2f}" for run in self[label])
        cpu = self.cpu(label) / (size / 2**30)
        return (label, size / 1e6 / self.seconds(label), *ratios, cpu, self.peak(label), taken)


def interleave(
    cases: Sequence[Case],
    rounds: int,
    *,
    runs: Runs,
    before: Callable[[Case], None] | None = None,
    after: Callable[[Case, Measured], None] | None = None,
) -> None:
    """Run every case once a round, every other round in reverse; `after` says whether what was done is right."""
    for number in range(rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            runs.add(case.label, run(case, before=before, after=after))


def run(
    case: Case,
    *,
    before: Callable[[Case], None] | None = None,
    after: Callable[[Case, Measured], None] | None = None,
) -> Measured:
    """Run one case once. Raises SideFailedError, and what `after` raises."""
    if before is not None:
        before(case)
    os.sync()  # nobody pays for what the one before left to be written
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rounds", case.side],
        cwd=_ROOT,
        env={**os.environ, **case.environ},
        input=json.dumps(dict(case.job)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SideFailedError(f"{case.label} failed: {done.stderr}")
    measured = Measured(**json.loads(done.stdout.splitlines()[-1]))
    print(f"  {case.label}: {measured.seconds:.2f} s, CPU {measured.cpu_seconds:.2f} s", file=sys.stderr)
    if after is not None:
        after(case, measured)
    return measured


def same_bytes(one: Path, other: Path) -> None:
    """Raise SideFailedError unless the files are equal."""
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(_BLOCK):
            if block != right.read(_BLOCK):
                raise SideFailedError(f"{other} differs from {one}")
        if right.read(1):
            raise SideFailedError(f"{other} is longer than {one}")


# The measured process


def _peak() -> int:
    # Not `ru_maxrss` where it can be helped: on Linux that starts at what the process that started this one had.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _cpu() -> float:
    """Of this process and of those it started and waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    """Be one side once, and print what it took."""
    module, _, function = sys.argv[1].partition(".")
    action: Action = getattr(importlib.import_module(f"benchmarks.{module}"), function)(json.load(sys.stdin))
    before, start = _cpu(), time.perf_counter()
    facts = action()
    seconds, cpu = time.perf_counter() - start, _cpu() - before
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": _peak(), "facts": facts or {}}))


if __name__ == "__main__":
    main()
