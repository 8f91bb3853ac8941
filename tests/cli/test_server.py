"""The commands that run the server."""

import subprocess
import sys

import pytest

from tests.support import ROOT

WITHOUT_SERVER = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"granian", "flask", "sqlalchemy", "dbos", "alembic", "boto3"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from registry.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("line", ["api", "worker", "db upgrade"])
def test_without_the_server_s_packages_it_is_told_how_to_install_them(line):
    command = [sys.executable, "-c", WITHOUT_SERVER, *line.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "weight-registry[server]" in done.stderr
    assert "[SERVER_NOT_INSTALLED]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_without_a_key_is_a_mistake(typed):
    typed("api --tls-cert cert.pem", code=2)
    typed("serve --tls-key key.pem", code=2)


def test_an_api_on_an_old_schema_says_what_to_do(typed, alone, monkeypatch):
    monkeypatch.setenv("REGISTRY_DATABASE_URL", f"sqlite:///{alone / 'empty.db'}")
    assert "[SCHEMA_OUTDATED]" in typed("api", code=1).err


def test_upgrading_twice_is_upgrading_once(typed, alone, monkeypatch):
    monkeypatch.setenv("REGISTRY_DATABASE_URL", f"sqlite:///{alone / 'registry.db'}")
    typed("db upgrade")
    typed("db upgrade")


def test_a_wrong_setting_is_named(typed, monkeypatch):
    monkeypatch.setenv("REGISTRY_DATABASE_URL", "mysql://nowhere")
    assert "REGISTRY_DATABASE_URL" in typed("db upgrade", code=1).err
