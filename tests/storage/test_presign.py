from datetime import UTC, datetime
from unittest.mock import patch

import boto3
import pytest
from botocore.config import Config as VendorConfig

from registry.storage.presign import Identity, presign
from registry.storage.s3 import Store, StoreConfig

NOW = datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)
KEY = "ns/12/ab/" + "ab" * 32 + ".1.raw"
SHA256 = "5f" * 32
STORES = [
    StoreConfig("weights", "http://127.0.0.1:8333", None, "us-east-1", "AKID", "s3cr3t/+="),
    StoreConfig("weights", "https://s3.example.org", None, "eu-west-1", "AKID", "s3cr3t"),
    StoreConfig("weights", "http://127.0.0.1:8333", "https://public.example.org:8443", "us-east-1", "AKID", "s3cr3t"),
    StoreConfig("weights", None, None, "eu-central-1", "AKID", "s3cr3t", "session/token+with=signs"),
    StoreConfig("weights", None, None, "us-east-1", "AKID", "s3cr3t"),
    StoreConfig("dotted.name", None, None, "eu-central-1", "AKID", "s3cr3t"),
    StoreConfig("weights", "http://[::1]:8333", None, "us-east-1", "AKID", "s3cr3t"),
]


class _Clock(datetime):
    @classmethod
    def now(cls, tz=None):  # noqa: ARG003 - the signature is the base class's
        return NOW


def vendor_url(config, operation, parameters):
    own = config.public_endpoint_url or config.endpoint_url
    # For AWS the vendor signs the global host, which redirects; the regional one is what the bucket really answers at.
    virtual = own is None and "." not in config.bucket
    client = boto3.client(
        "s3",
        endpoint_url=own or boto3.client("s3", region_name=config.region).meta.endpoint_url,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        aws_session_token=config.session_token,
        config=VendorConfig(
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            s3={"addressing_style": "virtual" if virtual else "path"},
        ),
    )
    with patch("botocore.auth.get_current_datetime", lambda **_: NOW.replace(tzinfo=None)):
        return client.generate_presigned_url(operation, Params=parameters, ExpiresIn=900)


def parts(url):
    address, _, query = url.partition("?")
    return address, sorted(query.split("&"))


@pytest.fixture
def frozen():
    with patch("registry.storage.s3.datetime", _Clock):
        yield


@pytest.mark.parametrize("config", STORES)
def test_a_signed_upload_is_the_one_the_vendor_would_sign(config, frozen):
    ours = Store(config).presign_put(KEY, sha256=SHA256, size=4096, expires=900)
    theirs = {
        "Bucket": config.bucket,
        "Key": KEY,
        "ChecksumSHA256": ours.headers["x-amz-checksum-sha256"],
        "ContentLength": 4096,
        "IfNoneMatch": "*",
    }
    assert parts(ours.url) == parts(vendor_url(config, "put_object", theirs))


@pytest.mark.parametrize("key", [KEY, "incoming/9f_-x", "odd/ä b+c=d~e%2F&.bin"])
@pytest.mark.parametrize("config", STORES)
def test_a_signed_download_is_the_one_the_vendor_would_sign(config, key, frozen):
    ours = Store(config).presign_get(key, expires=900)
    assert parts(ours) == parts(vendor_url(config, "get_object", {"Bucket": config.bucket, "Key": key}))


def test_every_condition_of_an_upload_is_among_the_signed_headers():
    url = Store(STORES[0]).presign_put(KEY, sha256=SHA256, size=1, expires=60).url
    assert "X-Amz-SignedHeaders=content-length%3Bhost%3Bif-none-match%3Bx-amz-checksum-sha256" in url


def test_signed_urls_carry_the_public_host():
    store = Store(STORES[2])
    assert store.presign_get(KEY, expires=60).startswith("https://public.example.org:8443/weights/ns/")
    assert store.presign_put(KEY, sha256=SHA256, size=1, expires=60).url.startswith("https://public.example.org:8443/")


def test_the_signing_key_of_a_day_is_not_used_on_the_next():
    store = Store(STORES[0])
    identity = Identity("AKID", "s3cr3t")

    def at(moment):
        return presign(store._public, identity, method="GET", key="k", headers={}, expires=60, at=moment)

    first, second = at(NOW), at(NOW.replace(month=12, day=1))
    assert "%2F20261124%2F" in first
    assert "%2F20261201%2F" in second
    assert first.rpartition("=")[2] != second.rpartition("=")[2]


def test_secrets_do_not_show_in_the_representation():
    assert "s3cr3t" not in repr(STORES[3])
    assert "session/token" not in repr(STORES[3])
