"""Which registry a client talks to; and everything it does there that moves no weights."""

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

import registry
from registry.client._credentials import Credentials
from registry.config import ClientConfig
from registry.domain import audit
from tests.support.live import TOKEN


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGISTRY_CREDENTIALS", str(tmp_path / "credentials.json"))
    monkeypatch.delenv("REGISTRY_URL", raising=False)
    monkeypatch.delenv("REGISTRY_TOKEN", raising=False)
    return tmp_path


def sent_token(client: registry.Client) -> str:
    return str(client._api._http.headers.get("Authorization", "")).removeprefix("Bearer ")


def test_without_an_address_there_is_no_client(home):
    with pytest.raises(registry.LocalError) as caught:
        registry.connect()
    assert caught.value.code == "SERVER_UNKNOWN"


def test_arguments_win_over_the_environment_and_that_over_what_login_kept(home, monkeypatch):
    Credentials(home / "credentials.json").remember("http://kept:1", "kept")
    assert (registry.connect().url, sent_token(registry.connect())) == ("http://kept:1", "kept")
    monkeypatch.setenv("REGISTRY_URL", "http://environment:2/")
    monkeypatch.setenv("REGISTRY_TOKEN", "environment")
    assert (registry.connect().url, sent_token(registry.connect())) == ("http://environment:2", "environment")
    client = registry.connect("http://argument:3", "argument")
    assert (client.url, sent_token(client)) == ("http://argument:3", "argument")


def test_what_login_keeps_is_found_in_the_home_directory(home, monkeypatch):
    monkeypatch.delenv("REGISTRY_CREDENTIALS")
    monkeypatch.setenv("HOME", str(home))
    Credentials.read(ClientConfig.from_environment().credentials).remember("http://kept:1", "kept")
    assert (home / ".config/weight-registry/credentials.json").exists()
    assert sent_token(registry.connect()) == "kept"


def test_a_kept_token_is_only_sent_where_it_belongs(home):
    Credentials(home / "credentials.json").remember("http://kept:1", "kept")
    assert sent_token(registry.connect("http://other:1")) == ""
    assert sent_token(registry.connect("HTTP://KEPT:1/")) == "kept"


def test_kept_tokens_are_readable_by_their_owner_alone(home):
    kept = Credentials(home / "deep" / "credentials.json")
    kept.remember("http://kept:1", "secret-token")
    assert stat.S_IMODE((home / "deep" / "credentials.json").stat().st_mode) == 0o600
    assert "secret-token" not in repr(kept)


def test_a_forgotten_token_is_gone(home):
    kept = Credentials(home / "credentials.json")
    kept.remember("http://kept:1", "secret-token")
    assert kept.forget("http://kept:1")
    assert not kept.forget("http://kept:1")
    assert "secret-token" not in (home / "credentials.json").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"current": 1, "tokens": {}}', "null"])
def test_a_broken_credentials_file_is_named(home, content):
    (home / "credentials.json").write_text(content)
    with pytest.raises(registry.LocalError) as caught:
        registry.connect()
    assert caught.value.code == "CREDENTIALS_UNREADABLE"
    assert "credentials.json" in str(caught.value)


def test_a_client_says_who_it_is(client):
    assert client.whoami().admin


def test_a_wrong_token_is_told(live):
    with live.client("wr_" + "x" * 40) as client, pytest.raises(registry.UnauthenticatedError):
        client.whoami()


def test_a_model_can_be_described(client, name):
    client.create_model(name, description="counts cars")
    changed = client.update_model(name, objective={"metric": "mAP", "direction": "max"})
    assert (changed.description, changed.objective and changed.objective.metric) == ("counts cars", "mAP")
    assert name in [model.name for model in client.models(namespace="default")]


def test_names_are_checked_before_anything_is_sent():
    client = registry.connect("http://127.0.0.1:9", "x")
    for call in (
        lambda: client.push("a/b/c", "nothing"),
        lambda: client.versions("no spaces"),
        lambda: client.resolve("yolo@latest"),
        lambda: client.history("yolo", "Production"),
        lambda: client.set_alias("yolo:1", "v7"),
        lambda: client.set_tag("yolo:1", "a=b", "c"),
        lambda: client.copy("yolo:1", "versions/x"),
    ):
        with pytest.raises(registry.InvalidError):
            call()


def test_promotion_moves_a_stage_and_history_tells(client, name, weights):
    first = client.push(name, weights(seed=1))
    second = client.push(name, weights(seed=2))
    promoted = client.promote(first, to="production", message="first")
    assert (promoted.version, promoted.previous, promoted.seq) == (1, None, 1)
    client.promote(second.ref, to="production", expect=1)
    assert client.resolve(f"{name}@production").number == 2
    between = client.stage(name, "production").since
    rolled = client.rollback(name, "production", message="worse at night")
    assert (rolled.version, rolled.previous) == (1, 2)
    client.demote(name, "production", expect=1)
    assert client.stage(name, "production").version is None
    history = list(client.history(name, "production"))
    assert [(each.kind, each.version) for each in history] == [
        ("demote", None), ("rollback", 1), ("promote", 2), ("promote", 1),
    ]  # fmt: skip
    assert [each.seq for each in history] == [4, 3, 2, 1]
    assert client.stage(name, "production", when=between).version == 2
    assert [each.seq for each in client.history(name, "production", limit=2)] == [4, 3]


def test_a_stale_expectation_is_refused_with_the_holder(client, name, weights):
    client.push(name, weights(seed=1))
    client.promote(f"{name}:1", to="staging", expect=0)
    with pytest.raises(registry.ConflictError) as caught:
        client.promote(f"{name}:1", to="staging", expect=0)
    assert caught.value.code == "STAGE_MOVED"
    assert caught.value.details["holder"] == 1


def test_aliases_and_tags_come_and_go(client, name, weights):
    version = client.push(name, weights(), aliases=["candidate"], tags={"licence": "mit"})
    assert client.resolve(f"{name}@candidate").number == 1
    client.set_alias(version, "champion")
    client.remove_alias(name, "candidate")
    assert [each.alias for each in client.aliases(name)] == ["champion"]
    client.set_tag(version, "a/b c", "x = 1\ny")
    client.remove_tag(version, "licence")
    assert client.version(version).tags == {"a/b c": "x = 1\ny"}
    client.set_model_tag(name, "team", "vision")
    assert client.model(name).tags == {"team": "vision"}
    client.remove_model_tag(name, "team")
    assert client.model(name).tags == {}


def test_metrics_are_added_and_never_replaced(client, name, weights):
    version = client.push(name, weights(), metrics={"mAP50-95": 0.42})
    more = [{"name": "mAP50-95", "value": 0.43, "dataset": "coco", "split": "val"}]
    assert client.log_metrics(version, more) == 1
    assert [each.value for each in client.metrics(version) if each.name == "mAP50-95"] == [0.42, 0.43]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "many", None])
def test_a_metric_that_is_no_number_is_refused_before_anything_is_sent(value):
    client = registry.connect("http://127.0.0.1:9", "x")
    with pytest.raises(registry.InvalidError):
        client.log_metrics("yolo:1", {"mAP": value})


def test_a_version_in_the_trash_can_be_restored(client, name, weights):
    version = client.push(name, weights())
    client.delete(version)
    with pytest.raises(registry.GoneError):
        client.resolve(f"{name}:1")
    assert [each.number for each in client.versions(name, state="trashed")] == [1]
    assert client.restore(version.ref).number == 1


def test_what_is_on_a_stage_is_not_deleted(client, name, weights):
    version = client.push(name, weights())
    client.promote(version, to="production")
    with pytest.raises(registry.ConflictError) as caught:
        client.delete(version)
    assert caught.value.code == "VERSION_IN_USE"


def test_lineage_is_walked_up_and_down(client, name, weights):
    base = client.push(name, weights(seed=1), parents=["hf://acme/base"])
    child = client.push(name, weights(seed=2), parents=[base])
    client.push(name, weights(seed=3), parents=[f"quantize={child.ref}"])
    up = [(each.depth, each.relation, each.parent or each.uri) for each in client.lineage(f"{name}:3")]
    assert up == [(1, "quantize", f"{name}:2"), (2, "finetune", f"{name}:1"), (3, "finetune", "hf://acme/base")]
    assert [each.child for each in client.lineage(base, direction="down")] == [f"{name}:2", f"{name}:3"]


def test_a_copy_is_another_model_s_version_with_the_same_content(client, name, weights):
    version = client.push(name, weights(), metrics={"mAP": 0.4})
    copied = client.copy(version, f"{name}-released")
    assert (copied.model, copied.number, copied.digest) == (f"{name}-released", 1, version.digest)


def test_people_get_roles_and_tokens(client, live, name, weights):
    user = f"ana-{name.rpartition('-')[2]}"
    space = f"space-{name.rpartition('-')[2]}"
    client.create_user(user)
    client.create_namespace(space, description="hers")
    secret = client.create_token("laptop", user=user).token
    with live.client(secret) as hers:
        assert hers.whoami().user == user
        with pytest.raises(registry.RegistryError):
            hers.push(f"{space}/model", weights())
        client.grant(space, user, role="writer")
        assert [(each.user, each.role) for each in client.grants(space) if each.user == user] == [(user, "writer")]
        assert hers.push(f"{space}/model", weights()).number == 1
        assert {each.name: each.role for each in hers.namespaces()}[space] == "writer"
        client.revoke(space, user)
        with pytest.raises(registry.NotFoundError):
            hers.model(f"{space}/model")
        (token,) = hers.tokens()
        client.update_user(user, disabled=True)
        with pytest.raises(registry.UnauthenticatedError):
            hers.whoami()
        client.update_user(user, disabled=False)
        hers.revoke_token(token.id)
        with pytest.raises(registry.UnauthenticatedError):
            hers.whoami()


def test_every_act_is_an_event_of_a_chain_that_verifies(client, name, weights):
    client.push(name, weights())
    events = [
        audit.Event(
            e.chain, e.seq, e.actor, e.action, e.subject, audit.event_time(e.at), e.detail, e.previous_hash, e.hash
        )
        for e in client.events("default")
    ]
    assert audit.verify(events) is None
    assert ("version:publish", f"{name}:1") in [(event.action, event.subject) for event in events]


def test_lists_go_on_page_after_page(client, name, monkeypatch, weights):
    monkeypatch.setattr("registry.client._api.PAGE", 2)
    for seed in range(5):
        client.push(name, weights(seed=seed))
    assert [each.number for each in client.versions(name)] == [5, 4, 3, 2, 1]
    assert [each.number for each in client.versions(name, limit=3)] == [5, 4, 3]


def test_a_version_is_described_anew(client, name, weights):
    version = client.push(name, weights(), message="first words")
    assert client.describe(version, "better words").message == "better words"


def test_storage_says_what_is_stored(client, name, weights):
    before = client.storage()
    path = weights(seed=77)
    client.push(name, path)
    after = client.storage()
    assert after.logical_bytes - before.logical_bytes == path.stat().st_size
    assert after.stored_bytes - before.stored_bytes <= path.stat().st_size


def test_times_are_aware(client, name, weights):
    assert client.push(name, weights()).created_at <= datetime.now(UTC)


def test_a_version_is_frozen_and_becomes_json(client, name, weights):
    version = client.push(name, weights())
    with pytest.raises(ValueError, match="frozen"):
        version.number = 7
    assert json.loads(version.model_dump_json())["number"] == 1


def test_the_token_of_the_operator_is_an_administrator_s(live):
    with live.client(TOKEN) as client:
        assert client.whoami().admin
