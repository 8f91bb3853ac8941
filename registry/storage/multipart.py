"""Objects that are uploaded in parts: the server's own, when it puts the pieces of a file together."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from registry.storage.transfer import Abort

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LEAST = 16 << 20
"""Bytes of a part, the last excepted. S3 takes 5 MiB; more of them would cost more than they carry."""
_MOST_PARTS = 10_000

Put = Callable[[str, Mapping[str, str], dict[str, str], memoryview, Abort], Mapping[str, str]]
"""Sends a body to a key with this query and these headers, and gives the headers of the answer."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that arrived: its number, the store's tag of it, and its sha256 as S3 writes it."""

    number: int
    etag: str
    sha256: str


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload that was begun and has not ended."""

    key: str
    upload_id: str
    begun_at: datetime


def part_size(size: int) -> int:
    """Bytes a part, so that an object of `size` bytes has no more parts than S3 takes."""
    return max(LEAST, -(-size // _MOST_PARTS))


class Multipart:
    """Uploads in parts to one bucket; got from `Store.multipart`. Safe to share between threads.

    Every method raises StorageUnavailableError, and those that add bytes StorageFullError.
    """

    def __init__(
        self, client: "S3Client", bucket: str, *, put: Put, narrowed: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        """Use the store's own connections, and its own errors."""
        self._client = client
        self._bucket = bucket
        self._put = put
        self._narrowed = narrowed

    def begin(self, key: str) -> str:
        """Begin an upload; give its id."""
        with self._narrowed(key):
            begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, ChecksumAlgorithm="SHA256")
        return begun["UploadId"]

    def put(self, key: str, upload_id: str, number: int, data: memoryview, *, abort: Abort) -> Part:
        """Send one part; the store checks its sha256, so what arrives is what `data` holds.

        Raises ObjectMissingError if the upload is no more, and ConnectionAbortedError once `abort` is set.
        """
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        query = {"partNumber": str(number), "uploadId": upload_id}
        answer = self._put(key, query, {"x-amz-checksum-sha256": checksum}, data, abort)
        return Part(number, answer["etag"], checksum)

    def complete(self, key: str, upload_id: str, parts: Iterable[Part]) -> None:
        """Make the object of its parts; if there is one under that key already, it stays and the parts go.

        Raises ObjectMissingError if the upload is no more.
        """
        listed: Any = [{"PartNumber": each.number, "ETag": each.etag, "ChecksumSHA256": each.sha256} for each in parts]
        with self._narrowed(key):
            try:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": listed},
                    IfNoneMatch="*",
                )
            except self._client.exceptions.ClientError as error:
                if error.response["Error"].get("Code") != "PreconditionFailed":
                    raise
                self.abort(key, upload_id)

    def abort(self, key: str, upload_id: str) -> None:
        """Forget an upload and its parts; one that is not there is no error."""
        with self._narrowed(key), suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)

    def unended(self, prefix: str) -> Iterator[OpenUpload]:
        """Uploads to keys that begin with `prefix`."""
        with self._narrowed(prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for found in page.get("Uploads", []):
                    yield OpenUpload(found["Key"], found["UploadId"], found["Initiated"])
