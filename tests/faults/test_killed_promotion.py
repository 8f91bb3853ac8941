"""The API is killed between commit and reply: the request, repeated, has one effect and gets one answer."""

import json
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from registry.db.session import Database
from tests.faults.scene import SOAK, draw
from tests.support.chaos import until
from tests.support.dying_api import DIE, is_live, running
from tests.support.factories import make_model, make_versions
from tests.support.world import ADMIN_SECRET, PREFIX

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

VERSIONS = 9
PRODUCTION = "/models/vision/yolo/stages/production"
POLICY = {"gates": [{"kind": "tag", "key": "checked", "value": "yes"}], "approvals": {"required": 1}}


class Caller:
    """A client of one person that sends a request once."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def get(self, path: str) -> Any:
        status, body = self.send("GET", path)
        assert status == 200, body
        return json.loads(body)

    def send(self, method: str, path: str, sent: Any = None, **headers: str) -> tuple[int, bytes]:
        """Status and body. Raises OSError if there is no answer."""
        request = urllib.request.Request(
            f"{self.url}{PREFIX}{path}",
            method=method,
            data=None if sent is None else json.dumps(sent).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"} | headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    def killed(self, path: str, sent: Any) -> tuple[int, Any]:
        """Have the API die between commit and reply, repeat the request twice; gives what both were told."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        with suppress(OSError):
            self.send("POST", path, sent, **key, **{DIE: "1"})
            pytest.fail("the API has answered")
        until(lambda: is_live(self.url), "the API answers again")
        first, second = (self.send("POST", path, sent, **key) for _ in range(2))
        assert first == second
        return first[0], json.loads(first[1])


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=SOAK)])
def test_a_request_repeated_after_a_kill_has_one_effect_and_one_answer(
    database: Database, admin: object, make_token: Any, tmp_path: Any, kills: int
):
    random = Random(draw())
    with database.transaction() as session:
        make_versions(session, make_model(session, "vision/yolo"), VERSIONS)
    tokens = [make_token(name, "promoter", "vision") for name in ("rita", "pat")]
    with running(database.url, tmp_path) as url:
        boss, rita, pat = (Caller(url, token) for token in (ADMIN_SECRET, *tokens))
        assert boss.send("PUT", f"{PRODUCTION}/policy", POLICY)[0] == 200
        for number in range(1, VERSIONS):  # the last one is not
            boss.send("PUT", f"/models/vision/yolo/versions/{number}/tags/checked", {"value": "yes"})
        for _ in range(kills):
            one_of_each_kind(random, boss, rita, pat)


def one_of_each_kind(random: Random, boss: Caller, rita: Caller, pat: Caller) -> None:
    """One act of some kind, cut off; whatever it was, there is one more of it than before."""
    before = counted(boss)
    number = random.randrange(1, VERSIONS)
    act = random.choice(["asked", "failed", "approved", "forced", "rejected"])
    if act in ("approved", "rejected"):
        asked = json.loads(rita.send("POST", f"{PRODUCTION}/promotions", {"version": number})[1])
        verb = "approve" if act == "approved" else "reject"
        status, said = pat.killed(f"/promotions/{asked['id']}/{verb}", {"comment": "seen"})
        assert (status, said["state"]) == (200, "applied" if act == "approved" else "rejected")
        assert len(boss.get(f"/promotions/{asked['id']}")["approvals"]) == 1
    elif act == "forced":
        status, said = boss.killed(
            f"{PRODUCTION}/promotions", {"version": number, "force": True, "message": "it burns"}
        )
        assert (status, said["state"]) == (201, "applied")
    else:
        status, said = rita.killed(f"{PRODUCTION}/promotions", {"version": VERSIONS if act == "failed" else number})
        assert (status, said.get("code"), said.get("state")) == (
            (422, "GATES_FAILED", None) if act == "failed" else (202, None, "pending")
        )
    asked_now, applied_now = counted(boss)
    assert asked_now == before[0] + 1
    assert applied_now == before[1] + (act in ("approved", "forced"))
    history = boss.get(f"{PRODUCTION}/history?limit=1000")["items"]
    assert [entry["seq"] for entry in history] == list(range(len(history), 0, -1))
    assert boss.get(PRODUCTION)["seq"] == len(history)


def counted(boss: Caller) -> tuple[int, int]:
    """How many promotions were ever asked for, and how many are the history."""
    asked = boss.get(f"{PRODUCTION}/promotions?limit=1000")["items"]
    return len(asked), len(boss.get(f"{PRODUCTION}/history?limit=1000")["items"])
