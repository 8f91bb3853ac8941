"""One SeaweedFS for all workers; a bucket of its own for each caller."""

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.embedded import seaweed
from registry.embedded.home import Home
from registry.storage.s3 import Store, StoreConfig
from tests.support import own, shared


@contextmanager
def seaweed_store(folder: Path) -> Iterator[StoreConfig]:
    """A live, empty bucket. `folder` is the same for all workers of a run; what is stored vanishes with it."""
    with shared("tests.support.seaweed", folder) as told:
        config = StoreConfig(
            bucket=f"test-{uuid.uuid4().hex[:12]}",
            endpoint_url=told["endpoint_url"],
            region=seaweed.REGION,
            access_key=told["access_key"],
            secret_key=told["secret_key"],
        )
        Store(config).ensure_bucket()
        yield config


def main(folder: Path) -> None:
    home = Home.open(folder / "home")
    listen = seaweed.Listen(seaweed.LOOPBACK, seaweed.free_ports(1)[0])
    # One volume a bucket instead of seven: many buckets must fit on a small disk.
    environment = os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    child = seaweed.start(home, listen, environment=environment)
    try:
        seaweed.ready(home, child, listen, timeout_s=50)
        keys = home.credentials()
        told = {"endpoint_url": f"http://{seaweed.LOOPBACK}:{listen.port}"}
        own(folder, told | {"access_key": keys.access_key, "secret_key": keys.secret_key, "pid": str(child.pid)})
    finally:
        seaweed.stop(child)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
