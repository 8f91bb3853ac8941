"""What a client may do with a presigned upload: exactly the upload that was signed, once. The real store is asked."""

import base64
import hashlib
import http.client
import os
import time
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest

from registry.storage.layout import segment_key
from registry.storage.s3 import ObjectMissingError, SignedPut, Store, StoreConfig

BODY = os.urandom(70_000)
OTHER = os.urandom(70_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


def checksum(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@dataclass(frozen=True)
class Use:
    """One use of a signed upload, by default the honest one."""

    signed: SignedPut
    key: str
    method: str = "PUT"
    body: bytes = BODY

    @property
    def url(self):
        return self.signed.url

    @property
    def headers(self):
        return self.signed.headers

    def but(self, *, url=None, headers=None, **changes):
        return replace(self, signed=SignedPut(url or self.url, headers or self.headers), **changes)

    def without(self, name):
        return self.but(headers={header: value for header, value in self.headers.items() if header != name})

    def adding(self, **headers):
        return self.but(headers=self.headers | {name.replace("_", "-"): value for name, value in headers.items()})

    def parameters(self, **changes):
        address, _, query = self.url.partition("?")
        return self.but(url=f"{address}?{urlencode(dict(parse_qsl(query)) | changes, quote_via=quote)}")

    def send(self):
        return send(self.method, self.url, self.headers, self.body)


def send(method, url, headers=(), body=b""):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), body=body or None, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""  # The store hung up while we sent what it did not want.
    finally:
        connection.close()


class Counter:
    generation = 0


@pytest.fixture
def store(s3_config: StoreConfig):
    return Store(s3_config)


@pytest.fixture
def key():
    Counter.generation += 1
    return segment_key(1, SHA256, Counter.generation, "raw")


@pytest.fixture
def honest(store, key):
    return Use(store.presign_put(key, sha256=SHA256, size=len(BODY), expires=60), key)


def another(key):
    return key.replace(".raw", ".other")


def with_chunked_body(use):
    return (
        use.adding(transfer_encoding="chunked")
        .without("content-length")
        .but(body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    )


HOSTILE = {
    "other bytes of the same length": lambda use: use.but(body=OTHER),
    "one flipped bit": lambda use: use.but(body=bytes([BODY[0] ^ 1]) + BODY[1:]),
    "fewer bytes": lambda use: use.adding(content_length="9").but(body=BODY[:9]),
    "more bytes": lambda use: use.adding(content_length=str(len(BODY) + 5)).but(body=BODY + b"extra"),
    "no bytes": lambda use: use.adding(content_length="0").but(body=b""),
    "no stated length": with_chunked_body,
    "no checksum header": lambda use: use.without("x-amz-checksum-sha256").but(body=OTHER),
    "the checksum of other bytes": lambda use: use.adding(x_amz_checksum_sha256=checksum(OTHER)).but(body=OTHER),
    "a second checksum of other bytes": lambda use: use.adding(**{"X-Amz-Checksum-Sha256": checksum(OTHER)}).but(
        body=OTHER
    ),
    "another checksum algorithm": lambda use: (
        use.without("x-amz-checksum-sha256").adding(x_amz_checksum_crc32="AAAAAA==").but(body=OTHER)
    ),
    "no condition that the key is free": lambda use: use.without("if-none-match"),
    "another condition": lambda use: use.adding(if_none_match='"0"'),
    "another key": lambda use: use.but(url=use.url.replace(".raw?", ".other?")),
    "a key that climbs": lambda use: use.but(url=use.url.replace("/ns/1/", "/ns/1/../2/")),
    "another bucket": lambda use: use.but(url=use.url.replace("/test-", "/best-")),
    "POST": lambda use: use.but(method="POST"),
    "a copy from elsewhere": lambda use: use.adding(x_amz_copy_source="/test/ns/1/secret"),
    "a public ACL": lambda use: use.adding(x_amz_acl="public-read"),
    "a grant": lambda use: use.adding(x_amz_grant_read='uri="http://acs.amazonaws.com/groups/global/AllUsers"'),
    "an ACL in the query": lambda use: use.parameters(**{"x-amz-acl": "public-read"}),
    "the ACL subresource": lambda use: use.parameters(acl=""),
    "the tagging subresource": lambda use: use.parameters(tagging=""),
    "a multipart part": lambda use: use.parameters(partNumber="1", uploadId="x"),
    "metadata": lambda use: use.adding(x_amz_meta_owner="mallory"),
    "a redirect": lambda use: use.adding(x_amz_website_redirect_location="http://example.org/"),
    "a longer expiry": lambda use: use.parameters(**{"X-Amz-Expires": "604800"}),
    "a later date": lambda use: use.parameters(**{"X-Amz-Date": time.strftime("%Y%m%dT235959Z", time.gmtime())}),
    "fewer signed headers": lambda use: use.parameters(**{"X-Amz-SignedHeaders": "host"}),
    "a changed signature": lambda use: use.parameters(**{"X-Amz-Signature": "0" * 64}),
    "no signature": lambda use: use.but(url=use.url.partition("?")[0]),
}


@pytest.mark.parametrize("deed", HOSTILE)
def test_what_was_not_signed_is_refused_and_leaves_nothing(store, honest, deed):
    status, answer = HOSTILE[deed](honest).send()
    assert status == 0 or 400 <= status < 500, (status, answer)
    for key in (honest.key, another(honest.key)):
        with pytest.raises(ObjectMissingError):
            store.head(key)


def test_what_was_signed_is_accepted(store, honest):
    assert honest.send()[0] == 200
    stored = store.head(honest.key)
    assert (stored.size, stored.sha256) == (len(BODY), SHA256)
    assert store.read(honest.key, 0, len(BODY)) == BODY


def test_a_refused_upload_does_not_spoil_the_honest_one(store, honest):
    assert honest.but(body=OTHER).send()[0] >= 400
    assert honest.send()[0] == 200
    assert store.head(honest.key).sha256 == SHA256


def test_an_object_that_exists_cannot_be_uploaded_again(store, honest):
    assert honest.send()[0] == 200
    assert honest.send()[0] == 412
    assert honest.but(body=OTHER).send()[0] in {0, 400, 412}
    assert store.read(honest.key, 0, len(BODY)) == BODY


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST"])
def test_an_upload_url_does_nothing_else_to_an_object_that_exists(store, honest, method):
    assert honest.send()[0] == 200
    assert 400 <= send(method, honest.url, honest.headers, OTHER)[0] < 500
    assert store.read(honest.key, 0, len(BODY)) == BODY


def test_an_upload_url_dies_with_its_time(store, key):
    late = Use(store.presign_put(key, sha256=SHA256, size=len(BODY), expires=1), key)
    time.sleep(2.1)
    assert late.send()[0] == 403
    with pytest.raises(ObjectMissingError):
        store.head(key)


def test_a_download_url_dies_with_its_time(store, honest):
    assert honest.send()[0] == 200
    url = store.presign_get(honest.key, expires=1)
    assert send("GET", url) == (200, BODY)
    time.sleep(2.1)
    assert send("GET", url)[0] == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "POST"])
def test_a_download_url_is_for_reading_alone(store, honest, method):
    assert honest.send()[0] == 200
    assert 400 <= send(method, store.presign_get(honest.key, expires=60), body=OTHER)[0] < 500
    assert store.read(honest.key, 0, len(BODY)) == BODY


def test_a_download_url_is_for_one_key_alone(store, honest):
    assert honest.send()[0] == 200
    url = store.presign_get(another(honest.key), expires=60)
    assert send("GET", url.replace(".other?", ".raw?"))[0] == 403


def test_a_range_may_be_asked_of_a_download(store, honest):
    assert honest.send()[0] == 200
    url = store.presign_get(honest.key, expires=60)
    assert send("GET", url, {"Range": "bytes=10-19"}) == (206, BODY[10:20])


def test_without_a_signature_there_is_nothing_to_see(store, honest):
    assert honest.send()[0] == 200
    bucket = f"{store.config.endpoint_url}/{store.config.bucket}"
    asked = [
        send("GET", f"{bucket}/{honest.key}"),
        send("HEAD", f"{bucket}/{honest.key}"),
        send("GET", f"{bucket}?list-type=2"),
        send("GET", f"{store.config.endpoint_url}/"),
        send("DELETE", f"{bucket}/{honest.key}"),
        send("PUT", f"{bucket}/{another(honest.key)}", body=OTHER),
    ]
    assert [status for status, _ in asked] == [403] * len(asked), asked
    assert not any(BODY[:64] in answer for _, answer in asked)
    assert store.head(honest.key).size == len(BODY)
