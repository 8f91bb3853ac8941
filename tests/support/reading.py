"""What a worker finds out about tensors after a publication, without its queue: their digests and norms."""

import hashlib

import numpy as np
from sqlalchemy import select, update

from registry.db.tables import Artifact, Tensor
from registry.request import Parts
from registry.services import artifacts
from registry.weights import tensors
from registry.weights.arrays import as_array


def read_tensors(parts: Parts) -> None:
    """Read every tensor that was not read yet."""
    with parts.database.transaction() as session:
        query = select(Tensor, Artifact).join(Artifact).where(Tensor.sha256.is_(None))
        for row, artifact in session.execute(query).all():
            stretches = artifacts.layout(session, artifact)
            last = row.offset + row.size - 1
            data = b"".join(artifacts.stream(parts.store, stretches, row.offset, last)) if row.size else b""
            shape = tuple(row.shape)
            array = as_array(tensors.Tensor(row.name, row.dtype, shape, row.offset, row.size), data)
            norm = float(np.linalg.norm(array.astype(np.float64)))
            found = {"sha256": hashlib.sha256(data).hexdigest(), "norm": norm if np.isfinite(norm) else None}
            key = (Tensor.artifact_id == row.artifact_id, Tensor.position == row.position)
            session.execute(update(Tensor).where(*key).values(**found))
