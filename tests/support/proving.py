"""What a worker does after a publication, without its queue."""

import json

from registry.jobs import verification
from registry.request import Parts


def work(parts: Parts, version_id: int) -> list[str]:
    """Prove and measure one version; gives what is wrong with it."""
    proved = json.loads(json.dumps(verification.prove(parts.database, parts.store, version_id), allow_nan=False))
    verification.record(parts.database, version_id, proved)
    return [message for message, _ in proved["faults"]]
