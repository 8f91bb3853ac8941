"""docs/tutorial.md, typed by a newcomer from its first line to its last."""

import os
import re
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.live import TOKEN

TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
# The registry runs already, and so does the environment.
NOT_TYPED = {"make serve", ". .venv/bin/activate"}


def script() -> str:
    found = []
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL):
        lines = [line for line in block.splitlines() if line not in NOT_TYPED]
        typed = "\n".join(lines) + "\n"
        found.append(typed if language == "sh" else f"python - <<'PYTHON'\n{typed}PYTHON\n")
    return "".join(found)


@pytest.mark.slow
def test_every_command_of_the_tutorial_does_what_it_says(live, alone):
    programs = alone / "bin"
    programs.mkdir()
    for name, module in (("registry", " -m registry"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script().replace("http://127.0.0.1:8080", live.url)],
        cwd=alone,
        env=environment,
        input=f"{TOKEN}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[PERMISSION_DENIED]" in done.stderr
    for said in (
        "as expected",
        "refused: 2 is there now",
        "the alias holds it",
        "(80, 512) {'latency_ms': 3.1, 'mAP': 0.44}",
    ):
        assert said in done.stdout
    sent = re.findall(r"sent (.*) of 8\.6 MB", done.stderr)
    assert sent == ["8.6 MB", "164 kB"]
    assert re.findall(r"fetched (.*) of 8\.6 MB", done.stderr)[:3] == ["8.6 MB", "164 kB", "8.6 MB"]
