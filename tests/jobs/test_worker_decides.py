"""The whole way: what is pushed and asked over the API is judged, promoted and closed by the worker as it is run."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.client import Client
from registry.wire import Objective
from tests.support import ROOT
from tests.support.chaos import until
from tests.support.databases import fresh_postgres
from tests.support.live import TOKEN, Live, live_registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BY_MAP = Objective(metric="mAP", direction="max")
AUTO = {"metric": "mAP", "direction": "max", "dataset": "any"}


@contextmanager
def working(live: Live, count: int = 1) -> Iterator[None]:
    """So many workers beside the API."""
    with ExitStack() as stack:
        for number in range(count):
            log = stack.enter_context((live.folder / f"worker{number}.log").open("wb"))
            worker = subprocess.Popen(
                [sys.executable, "-m", "registry", "worker"], cwd=ROOT, env=live.environment, stdout=log, stderr=log
            )
            stack.callback(worker.wait, 60)
            stack.callback(worker.terminate)
        yield


@pytest.fixture(params=["sqlite", "postgres"])
def live(request: pytest.FixtureRequest, tmp_path: Path, s3_config: Any) -> Iterator[Live]:
    settings = {}
    if request.param == "postgres":
        settings["REGISTRY_DATABASE_URL"] = fresh_postgres(request.getfixturevalue("postgres_url"))
    with live_registry(tmp_path / "registry", s3_config, **settings) as made:
        yield made


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with live.client(TOKEN) as found:
        yield found


@pytest.fixture
def push(client: Client, tmp_path: Path) -> Callable[..., int]:
    def publish(name: str, seed: int, value: float | None = None, fault: float = 1.0) -> int:
        file = tmp_path / f"{seed}.safetensors"
        array = np.random.default_rng(seed).standard_normal((100, 100), dtype=np.float32)
        array[3, 3] *= fault
        save_file({"w": array}, file)
        return client.push(name, str(file), metrics={"mAP": value} if value is not None else {}).number

    return publish


def holder(client: Client, name: str, stage: str = "production") -> int | None:
    return client.stage(name, stage).version


def story(client: Client, name: str) -> dict[int | None, tuple[str, str]]:
    return {each.version: (each.kind, each.state) for each in client.promotions(name, "production")}


def test_the_worker_decides_by_itself(live: Live, client: Client, push: Callable[..., int]):
    client.create_model("auto", objective=BY_MAP)
    client.set_policy("auto", "production", {"auto": AUTO, "gates": [{"kind": "no_nan"}, {"kind": "verified"}]})
    client.create_model("soaked")
    soaking = {"auto": AUTO, "require_stage": {"stage": "staging", "soak_s": 1}}
    client.set_policy("soaked", "production", soaking)
    push("auto", 1, 0.5), push("soaked", 2, 0.5)
    with working(live):
        until(lambda: holder(client, "auto") == 1, "the first version is promoted by itself")
        push("auto", 3, 0.6)
        until(lambda: holder(client, "auto") == 2, "the better one takes its place")
        push("auto", 4, 0.9, fault=float("nan"))
        until(lambda: 3 in story(client, "auto") and story(client, "auto")[3][1] == "failed", "NaN is refused")
        assert client.resolve("auto@best").number == 3
        assert [(each.version, each.kind) for each in client.history("auto", "production")] == [
            (2, "auto"),
            (1, "auto"),
        ]
        client.promote("soaked:1", to="staging")
        until(lambda: holder(client, "soaked") == 1, "the version that was on staging for long enough is promoted")


def test_what_waits_for_the_worker_is_applied_or_refused_once_it_has_looked(
    live: Live, client: Client, push: Callable[..., int]
):
    client.create_model("m")
    client.set_policy("m", "production", {"gates": [{"kind": "no_nan"}]})
    push("m", 1), push("m", 2, fault=float("inf"))
    good, bad = (client.promote(f"m:{number}", to="production") for number in (1, 2))
    assert (good.state, bad.state, holder(client, "m")) == ("pending", "pending", None)
    with working(live):
        until(lambda: client.promotion(good.id).state == "applied", "the good one is applied")
        until(lambda: client.promotion(bad.id).state == "failed", "the other one is refused")
    assert holder(client, "m") == 1


def test_of_two_that_qualify_at_once_the_better_one_wins_and_both_are_on_record(
    live: Live, client: Client, push: Callable[..., int]
):
    for turn in range(3):
        name = f"race{turn}"
        client.create_model(name, objective=BY_MAP)
        client.set_policy(name, "production", {"auto": {"dataset": "any"}})
        push(name, 10 * turn + 1, 0.7), push(name, 10 * turn + 2, 0.8)
    with working(live, 2):
        for turn in range(3):
            name = f"race{turn}"
            until(lambda: holder(client, name) == 2 and len(story(client, name)) == 2, "the better one wins")  # noqa: B023
            found = story(client, name)
            assert found[2] == ("auto", "applied")
            assert found[1] in {("auto", "applied"), ("auto", "failed")}


def test_a_pending_promotion_is_closed_when_its_time_is_over(live: Live, client: Client, push: Callable[..., int]):
    client.create_model("m")
    client.set_policy("m", "production", {"approvals": {"required": 1}, "expires_s": 1})
    push("m", 1)
    waiting = client.promote("m:1", to="production")
    with working(live):
        until(lambda: client.promotion(waiting.id).state == "expired", "it is closed", patience_s=120)
