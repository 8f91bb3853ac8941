import hashlib
import os
import urllib.request

import pytest

from tests.support.pushing import push, weights
from tests.support.world import code

DATA = os.urandom(10_000)


@pytest.fixture
def whole(http):
    push(http, "yolo", {"dir/a b.bin": DATA})
    return "/models/yolo/versions/1/artifacts/dir/a%20b.bin"


@pytest.fixture
def cut_up(http):
    push(http, "yolo", {"a.bin": DATA}, size=1000)
    return "/models/yolo/versions/1/artifacts/a.bin"


def test_a_file_of_one_object_redirects_to_the_store(http, whole):
    answer = http.get(whole)
    assert answer.status_code == 307
    with urllib.request.urlopen(answer.headers["Location"]) as found:
        assert found.read() == DATA


def test_a_file_of_many_segments_streams_through_the_api(http, cut_up):
    answer = http.get(cut_up)
    assert (answer.status_code, answer.data) == (200, DATA)
    assert answer.headers["ETag"].strip('"') == hashlib.sha256(DATA).hexdigest()
    assert answer.headers["Content-Disposition"] == "attachment"


def test_redirect_0_streams(http, whole):
    assert http.get(f"{whole}?redirect=0").data == DATA


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("0-0", 0, 0), ("995-1005", 995, 1005), ("9990-", 9990, 9999), ("-10", 9990, 9999), ("500-99999", 500, 9999)],
)
def test_a_range_gives_exactly_those_bytes(http, cut_up, asked, first, last):
    answer = http.get(cut_up, headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.data) == (206, DATA[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/10000"
    assert answer.headers["Content-Length"] == str(last - first + 1)


def test_a_range_outside_the_file_is_refused(http, cut_up):
    answer = http.get(cut_up, headers={"Range": "bytes=10000-"})
    assert code(answer) == (416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["Content-Range"] == "bytes */10000"


def test_if_range_of_another_file_gives_the_whole(http, cut_up):
    answer = http.get(cut_up, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (answer.status_code, len(answer.data)) == (200, 10_000)


def test_head_and_if_none_match_are_answered_here_and_never_redirected(http, whole):
    head = http.head(whole)
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", "10000")
    answer = http.get(whole, headers={"If-None-Match": head.headers["ETag"]})
    assert (answer.status_code, answer.data) == (304, b"")


def test_an_empty_file_downloads(http):
    push(http, "yolo", {"empty.txt": b""})
    answer = http.get("/models/yolo/versions/1/artifacts/empty.txt")
    assert (answer.status_code, answer.data, answer.headers["Content-Length"]) == (200, b"", "0")


def test_segments_are_listed_in_order_and_their_urls_read_the_bytes(http, cut_up):
    found = http.items("/models/yolo/versions/1/segments?artifact=a.bin&urls=1", limit=3)
    assert [item["offset"] for item in found] == list(range(0, 10_000, 1000))
    read = b""
    for item in found:
        with urllib.request.urlopen(item["url"]) as answer:
            read += answer.read()
    assert read == DATA


def test_urls_are_signed_only_when_asked_for(http, cut_up):
    assert {item["url"] for item in http.items("/models/yolo/versions/1/segments?artifact=a.bin")} == {None}


def test_tensors_are_listed_in_the_order_of_the_file(http):
    push(http, "yolo", {"m.safetensors": weights(count=3, name="layer.0")})
    [found] = http.items("/models/yolo/versions/1/tensors?artifact=m.safetensors")
    assert (found["name"], found["dtype"], found["shape"], found["size"]) == ("layer.0", "F32", [3], 12)


def test_a_file_that_is_not_there_is_named(http, whole):
    assert code(http.get("/models/yolo/versions/1/artifacts/b.bin")) == (404, "ARTIFACT_NOT_FOUND")
    assert code(http.get("/models/yolo/versions/1/segments?artifact=b.bin")) == (404, "ARTIFACT_NOT_FOUND")
    assert code(http.get("/models/yolo/versions/1/segments")) == (422, "INVALID_PARAMETER")


def test_a_stranger_downloads_nothing(http, whole, make_token):
    assert code(http.get(whole, token=make_token("stan"))) == (404, "MODEL_NOT_FOUND")


def test_damaged_and_trashed_versions_give_no_bytes(http, app, whole):
    http.delete("/models/yolo/versions/1")
    assert code(http.get(whole)) == (410, "VERSION_TRASHED")
    http.post("/models/yolo/versions/1/restore")
    with app.extensions["registry"].database.transaction() as session:
        session.execute(__import__("sqlalchemy").text("UPDATE versions SET integrity = 'damaged'"))
    assert code(http.get(whole)) == (409, "VERSION_DAMAGED")
