"""Runs every benchmark, or the ones named: `python -m benchmarks [NAME]... [--full] [--json]`.

What was found is printed, and kept as JSON in `benchmarks/results/`, which git ignores.
"""

import argparse
import importlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

# A module of that name in this package, with `measure(folder, full=…) -> Report` (see `benchmarks.report`).
NAMES = (
    "push",
    "pull",
    "delta",
    "load",
    "streaming",
    "diff",
    "proof",
    "resolve",
    "publish",
    "lists",
    "memory",
    "storage",
    "sizes",
    "unread",
    "objects",
)
_KEPT = Path(__file__).parent / "results"


def main() -> int:
    """Run, print, and say by the exit code whether every target was met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run, of: {', '.join(NAMES)}")
    parser.add_argument("--full", action="store_true", help="full sizes and more rounds, as for quoting")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--folder", type=Path, help="where to keep scratch data while it runs (needs room)")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    machine = describe()
    print(f"on {machine}", file=sys.stderr)
    results = {}
    for name in given.names or NAMES:
        print(f"{name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="registry-bench-", dir=given.folder) as folder:
            results[name] = importlib.import_module(f"benchmarks.{name}").measure(Path(folder), full=given.full)
        if not given.json:
            print(results[name].table())
    found = {
        "machine": machine,
        "full": given.full,
        "results": {name: each.document() for name, each in results.items()},
    }
    print(f"kept as {_keep(found)}", file=sys.stderr)
    if given.json:
        print(json.dumps(found))
    return 0 if all(found.met() for found in results.values()) else 1


def _keep(found: dict[str, Any]) -> Path:
    _KEPT.mkdir(exist_ok=True)
    kept = _KEPT / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.json"
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return kept


if __name__ == "__main__":
    raise SystemExit(main())
