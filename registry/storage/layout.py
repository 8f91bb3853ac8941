"""Every key this project ever writes to its bucket, drawn before the code.

    <bucket>/
    ├── ns/<namespace id>/                        bytes that belong to one namespace; rights end here
    │   ├── <hh>/                                 first two hex digits of the segment's sha256
    │   │   └── <hex>.<generation>.<codec>        one object: a segment's bytes, encoded by <codec>
    │   └── whole/<hh>/<hex>.<generation>         one file in one piece, by its sha256, while it is on a stage
    └── incoming/<upload id>                      a whole file uploaded by a client that knows no segments

A key names the content, never the model: equal bytes of one namespace are one object, and nothing is ever shared
between namespaces. `generation` counts from 1 and goes up each time a segment that was condemned is uploaded again, so
that a late delete can only ever hit the old key. `codec` is `raw`, or the name and version of an encoding.
Of a whole file, which comes and goes with the stages, `generation` is a time, and goes up as well.
No key is reused, so an object is never overwritten (`If-None-Match: *` holds that in the store itself).
"""

import re
from dataclasses import dataclass

NAMESPACES = "ns/"
"""What every key begins with that names content."""
_SEGMENT = re.compile(
    r"ns/(?P<namespace>[1-9][0-9]{0,18})/(?P<head>[0-9a-f]{2})/"
    r"(?P<sha256>(?P=head)[0-9a-f]{62})\.(?P<generation>[1-9][0-9]{0,9})\.(?P<codec>[a-z][a-z0-9-]{0,31})"
)
_WHOLE = re.compile(
    r"ns/(?P<namespace>[1-9][0-9]{0,18})/whole/(?P<head>[0-9a-f]{2})/"
    r"(?P<sha256>(?P=head)[0-9a-f]{62})\.(?P<generation>[1-9][0-9]{0,9})"
)
_UPLOAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """What the key of a segment's object says."""

    namespace_id: int
    sha256: str
    generation: int
    codec: str

    def __str__(self) -> str:
        """The key itself."""
        return f"ns/{self.namespace_id}/{self.sha256[:2]}/{self.sha256}.{self.generation}.{self.codec}"


def segment_key(namespace_id: int, sha256: str, generation: int, codec: str) -> str:
    """The key of one object. Raises ValueError for parts that no key can have: a bug, never a user's mistake."""
    key = str(SegmentKey(namespace_id, sha256, generation, codec))
    if _SEGMENT.fullmatch(key) is None:
        message = f"no key can be made of {(namespace_id, sha256, generation, codec)!r}"
        raise ValueError(message)
    return key


def parse_segment_key(key: str) -> SegmentKey | None:
    """The parts of a key made by `segment_key`, or None for any other string."""
    found = _SEGMENT.fullmatch(key)
    if found is None:
        return None
    return SegmentKey(int(found["namespace"]), found["sha256"], int(found["generation"]), found["codec"])


@dataclass(frozen=True, slots=True)
class WholeKey:
    """What the key of a whole file's object says."""

    namespace_id: int
    sha256: str
    generation: int

    def __str__(self) -> str:
        """The key itself."""
        return f"{NAMESPACES}{self.namespace_id}/whole/{self.sha256[:2]}/{self.sha256}.{self.generation}"


def whole_key(namespace_id: int, sha256: str, generation: int) -> str:
    """The key of a whole file. Raises ValueError for parts that no key can have: a bug, never a user's mistake."""
    key = str(WholeKey(namespace_id, sha256, generation))
    if _WHOLE.fullmatch(key) is None:
        message = f"no key can be made of {(namespace_id, sha256, generation)!r}"
        raise ValueError(message)
    return key


def parse_whole_key(key: str) -> WholeKey | None:
    """The parts of a key made by `whole_key`, or None for any other string."""
    found = _WHOLE.fullmatch(key)
    return WholeKey(int(found["namespace"]), found["sha256"], int(found["generation"])) if found else None


def incoming_key(upload_id: str) -> str:
    """The key of a whole file on its way in. Raises ValueError for an id that is not one plain word."""
    if _UPLOAD.fullmatch(upload_id) is None:
        message = f"no upload has the id {upload_id!r}"
        raise ValueError(message)
    return f"incoming/{upload_id}"
