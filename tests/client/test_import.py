import json
import subprocess
import sys
import time
import tomllib

import registry
from tests.support import ROOT

SERVER = {
    "alembic", "argon2", "boto3", "botocore", "dbos", "flask", "granian", "prometheus_client", "psycopg", "sqlalchemy",
    "structlog", "werkzeug", "registry.db", "registry.services", "registry.storage", "registry.api", "registry.app",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_none_of_its_dependencies():
    loaded = modules_after("import registry")
    assert not loaded & {"click", "httpx2", "numpy", "pydantic", "rich", "safetensors", "torch"}
    assert not loaded & SERVER


def test_importing_the_package_takes_at_most_150_ms():
    code = "import time; t = time.perf_counter(); import registry; print(time.perf_counter() - t)"
    taken = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        taken.append(float(done.stdout))
    assert min(taken) <= 0.15


def test_the_whole_client_needs_no_server_package():
    names = "_client _cache _load _pull _push _layout _accounts _arguments"
    imports = "; ".join(f"import registry.client.{name}" for name in names.split())
    assert not modules_after(imports) & SERVER


def test_the_help_of_the_command_line_needs_neither_server_nor_numpy():
    run = "import registry.cli, contextlib, io\n"
    run += "with contextlib.redirect_stdout(io.StringIO()): registry.cli.run(['--help'])"
    assert not modules_after(run) & (SERVER | {"numpy", "httpx2", "pydantic", "rich"})


def test_the_help_of_the_command_line_is_quick():
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "registry", "--help"], cwd=ROOT, capture_output=True, check=True)
    assert time.perf_counter() - began < 1.5


def test_every_public_name_is_there_and_listed():
    assert sorted(registry.__all__) == registry.__all__
    for name in registry.__all__:
        assert getattr(registry, name) is not None
        assert name in dir(registry)


def test_a_name_that_is_not_public_is_an_attribute_error():
    assert not hasattr(registry, "disconnect")


def test_the_version_is_the_distribution_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert registry.__version__ == project["version"]
