"""Runs the supervisor with stand-ins for API and worker: `python -m tests.embedded.serve HOME HOST PORT S3_PORT`."""

import os
import sys
from pathlib import Path

from registry.domain.errors import RegistryError
from registry.embedded.supervisor import ServeOptions, run

if __name__ == "__main__":
    options = ServeOptions(
        home=Path(sys.argv[1]),
        upgrade=lambda environment: print("upgrading", environment["REGISTRY_DATABASE_URL"], file=sys.stderr),
        environ=os.environ,
        host=sys.argv[2],
        port=int(sys.argv[3]),
        s3_port=int(sys.argv[4]),
        program=(sys.executable, str(Path(__file__).with_name("stand_in.py"))),
    )
    try:
        sys.exit(run(options))
    except RegistryError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(1)
