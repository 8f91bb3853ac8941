"""Each command does what its help says."""

import json
import re
import sqlite3
import stat
from contextlib import closing
from hashlib import sha256

import pytest

from tests.cli.conftest import write
from tests.support.live import TOKEN


@pytest.fixture
def pushed(registry, name, alone):
    """A model with two versions, the second a fine-tune of the first."""
    registry("push {name} {file} --metric acc=0.5@val -m first", name=name, file=write(alone / "m.safetensors"))
    registry(
        "push {name} {file} --metric acc=0.6@val --parent {parent}",
        name=name,
        file=write(alone / "m.safetensors", head=1.0),
        parent=f"{name}:1",
    )
    return name


def test_push_says_what_was_sent_and_what_was_there(registry, name, alone):
    file = write(alone / "m.safetensors", seed=5)
    assert re.search(r"sent 1\.0 MB of 1\.0 MB", registry("push {name} {file}", name=name, file=file).err)
    again = registry("push {name} {file}", name=name, file=file)
    assert "sent 0 B of 1.0 MB; 1.0 MB were there already" in again.err
    assert "has this content already" in again.err
    assert registry("push {name} {file} --new", name=name, file=file).out == f"{name}:2\n"


def test_push_records_everything_it_is_told(registry, name, alone):
    digest = "sha256:" + "a" * 64
    registry(
        "push {name} {file} --metric mAP50-95=0.42@coco:val --metric loss=1.5@other --param lr0=0.01 --param opt=adam "
        "--parent hf://acme/base --dataset coco={digest} --dataset other --tag licence=mit --tag note=a=b "
        "--alias candidate --run r1 -m words",
        name=name,
        file=write(alone / "m.safetensors"),
        digest=digest,
    )
    version = json.loads(registry("show {name} --json", name=name).out)
    assert version["params"] == {"lr0": 0.01, "opt": "adam"}
    assert version["tags"] == {"licence": "mit", "note": "a=b"}
    assert (version["aliases"], version["run"], version["message"]) == (["candidate"], "r1", "words")
    assert version["parents"] == [{"relation": "finetune", "ref": None, "uri": "hf://acme/base"}]
    metrics = {each["name"]: each for each in json.loads(registry("metrics {name} --json", name=name).out)}
    measured = metrics["mAP50-95"]
    assert (measured["dataset"], measured["dataset_digest"], measured["split"]) == ("coco", digest, "val")
    assert (metrics["loss"]["dataset"], metrics["loss"]["dataset_digest"]) == ("other", None)


def test_one_dataset_is_what_metrics_without_one_were_measured_on(registry, name, alone):
    file = write(alone / "m.safetensors")
    registry("push {name} {file} --metric acc=1 --dataset coco", name=name, file=file)
    assert json.loads(registry("metrics {name} --json", name=name).out)[0]["dataset"] == "coco"


def test_a_dataset_that_nothing_was_measured_on_is_a_mistake(typed, alone):
    done = typed("push yolo {file} --dataset coco", file=write(alone / "m.safetensors"), code=2)
    assert "'coco'" in done.err


def test_a_checkpoint_is_not_what_the_name_means(registry, pushed, alone):
    registry("push {name} {file} --checkpoint", name=pushed, file=write(alone / "m.safetensors", head=9.0))
    assert registry("resolve {name}", name=pushed).out.startswith(f"{pushed}:2 (sha256:")
    assert "checkpoint" in registry("versions {name} --kind checkpoint", name=pushed).out


def test_pull_prints_the_directory_and_says_what_travelled(registry, pushed, alone):
    done = registry("pull {ref} -o out --verify-file", ref=f"{pushed}:1")
    assert done.out == "out\n"
    assert "fetched 1.0 MB of 1.0 MB" in done.err
    done = registry("pull {ref} -o out --json", ref=f"{pushed}:2")
    assert json.loads(done.out)["moved"] < 10_000
    expected = sha256((alone / "m.safetensors").read_bytes()).hexdigest()
    assert sha256((alone / "out/m.safetensors").read_bytes()).hexdigest() == expected


def test_pull_chooses_by_pattern(registry, name, alone):
    write(alone / "m.safetensors")
    (alone / "notes.txt").write_text("notes")
    registry("push {name} m.safetensors notes.txt", name=name)
    registry("pull {name} -o out --artifact '*.txt'", name=name)
    assert sorted(path.name for path in (alone / "out").iterdir()) == [".registry", "notes.txt"]


def test_copy_publishes_elsewhere(registry, pushed):
    assert registry("copy {ref} {to}", ref=f"{pushed}:1", to=f"{pushed}-out").out == f"{pushed}-out:1\n"


def test_the_path_to_production_and_back(registry, pushed):
    done = registry("promote {ref} --to production -m go", ref=f"{pushed}:1")
    assert done.out == f"{pushed}@production = {pushed}:1 (was empty)\n"
    registry("promote {ref} --to production --expect 1", ref=f"{pushed}:2")
    refused = registry("promote {ref} --to production --expect 1", ref=f"{pushed}:2", code=1)
    assert "[STAGE_MOVED]" in refused.err
    assert "production=2" in registry("list").out
    done = registry("rollback {name} production -m 'worse at night'", name=pushed)
    assert done.out == f"{pushed}@production = {pushed}:1 (was 2)\n"
    assert registry("demote {name} production", name=pushed).out == f"{pushed}@production = none (was 1)\n"
    history = registry("history {name} production", name=pushed).lines
    assert [line.split()[1] for line in history[1:]] == ["demote", "rollback", "promote", "promote"]
    assert len(registry("history {name} production --limit 1", name=pushed).lines) == 2


def test_lineage_is_a_tree(registry, pushed):
    assert registry("lineage {ref}", ref=f"{pushed}:2").lines == [f"{pushed}:2", f"└─ finetune {pushed}:1"]
    assert registry("lineage {ref} --down", ref=f"{pushed}:1").lines == [f"{pushed}:1", f"└─ finetune {pushed}:2"]


def test_show_tells_all(registry, pushed):
    out = registry("show {ref}", ref=f"{pushed}:2").out
    for text in (f"{pushed}:2", "sha256:", f"finetune {pushed}:1", "acc = 0.6", "m.safetensors", "safetensors"):
        assert text in out


def test_metrics_can_be_added(registry, pushed):
    assert registry("metrics {ref} --add acc=0.7@val:night", ref=f"{pushed}:2").err == "added 1\n"
    assert "night" in registry("metrics {ref}", ref=f"{pushed}:2").out


def test_aliases_and_tags(registry, pushed):
    assert registry("alias set {ref} champion", ref=f"{pushed}:1").out == f"{pushed}:1\n"
    assert "champion" in registry("alias list {name}", name=pushed).out
    registry("alias rm {name} champion", name=pushed)
    registry("tag set {ref} licence=mit team=vision", ref=f"{pushed}:1")
    registry("tag rm {ref} team", ref=f"{pushed}:1")
    registry("tag set --model {name} owner=ana", name=pushed)
    assert json.loads(registry("show {ref} --json", ref=f"{pushed}:1").out)["tags"] == {"licence": "mit"}
    registry("tag rm --model {name} owner", name=pushed)


def test_delete_and_restore(registry, pushed):
    refused = registry("delete {ref}", ref=f"{pushed}:1", code=1)
    assert "[VERSION_IN_USE]" in refused.err
    registry("delete {ref}", ref=f"{pushed}:2")
    assert [line.split()[0] for line in registry("versions {name} --trashed", name=pushed).lines[1:]] == ["2"]
    assert registry("restore {ref}", ref=f"{pushed}:2").out == f"{pushed}:2\n"


def test_login_keeps_a_token_that_works(typed, live, alone):
    done = typed("login {url}/", url=live.url, stdin=f"{TOKEN}\n")
    assert f"logged in to {live.url} as admin" in done.err
    kept = alone / "home/credentials.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "admin" in typed("whoami").out
    typed("logout")
    assert TOKEN not in kept.read_text()
    assert "[SERVER_UNKNOWN]" in typed("whoami", code=1).err


def test_login_keeps_no_token_that_does_not_work(typed, live, alone):
    typed("login {url}", url=live.url, stdin="wrong-token\n", code=1)
    assert not (alone / "home/credentials.json").exists()


def test_people_are_let_in_and_kept_out(registry, live, name, alone, monkeypatch):
    user, space = f"u{name.rpartition('-')[2]}", f"s{name.rpartition('-')[2]}"
    assert registry(f"user create {user}").out == f"{user}\n"
    assert registry(f"namespace create {space} --description theirs").out == f"{space}\n"
    registry(f"namespace grant {space} {user} writer")
    assert f"{user} writer".split() in [line.split() for line in registry(f"namespace grants {space}").lines]
    assert space in registry("namespace list").out
    made = registry(f"token create laptop --user {user} --days 3")
    secret = made.out.strip()
    assert made.lines == [secret]
    monkeypatch.setenv("REGISTRY_TOKEN", secret)
    registry(f"push {space}/m {{file}}", file=write(alone / "m.safetensors"))
    number = json.loads(registry("token list --json").out)[0]["id"]
    assert secret not in registry("token list").out
    monkeypatch.setenv("REGISTRY_TOKEN", TOKEN)
    registry(f"user disable {user}")
    assert "disabled" in next(line for line in registry("user list").lines if line.startswith(user))
    registry(f"user enable {user}")
    registry(f"namespace revoke {space} {user}")
    registry(f"token revoke {number}")


def test_events_verify(registry, pushed):
    assert re.fullmatch(
        r"\d+ events of default verify, the last is sha256:[0-9a-f]{64}\n", registry("events verify").out
    )
    assert "version:publish" in registry("events list").out
    assert registry("events default").out == registry("events").out
    actions = {line.split()[3] for line in registry("events --action 'version:*'").lines[1:]}
    assert "version:publish" in actions
    assert {action.partition(":")[0] for action in actions} == {"version"}
    last = json.loads(registry("events --json").lines[-1])["seq"]
    assert [json.loads(line)["seq"] for line in registry("events --after {n} --json", n=last - 1).lines] == [last]


def test_events_are_followed_until_there_are_enough(registry, pushed):
    lines = registry("events default --follow --limit 2").lines
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_a_dump_is_checked_without_a_registry(registry, pushed, alone, monkeypatch):
    dump, head = alone / "dump", alone / "head.json"
    head.write_text(registry("events head --json").out)
    lines = registry("events default --json").lines
    end = json.loads(lines[-1])
    assert registry("events head default").out == f"default {end['seq']} sha256:{end['hash']}\n"
    monkeypatch.setenv("REGISTRY_URL", "http://127.0.0.1:9")

    def check(kept, code):
        dump.write_text("\n".join(kept))
        return registry("events verify --file {dump} --head {head}", dump=dump, head=head, code=code)

    assert check(lines, 0).out == f"{end['seq']} events of default verify, the last is sha256:{end['hash']}\n"
    assert f"broken at event {end['seq']}" in check(lines[:-1], 1).err
    assert f"broken at event {end['seq']}" in check([*lines[:-1], lines[-1].replace(end["subject"], "x")], 1).err
    assert "broken at event 1." in check(lines[1:], 1).err
    assert "[DUMP_UNREADABLE]" in check([*lines, "{"], 1).err
    dump.write_text("\n".join(lines[:-1]))
    assert f"{end['seq'] - 1} events" in registry("events verify --file {dump}", dump=dump).out  # nobody could tell


def test_a_chain_that_was_tampered_with_is_told(registry, pushed, live, alone):
    head = alone / "head.json"
    head.write_text(registry("events head --json").out)
    seq = json.loads(head.read_text())["seq"]
    with closing(sqlite3.connect(live.folder / "registry.db", timeout=30)) as database, database:
        [actor] = database.execute("SELECT actor FROM events WHERE chain = 'default' AND seq = 2").fetchone()
        database.execute("UPDATE events SET actor = 'mallory' WHERE chain = 'default' AND seq = 2")
        database.commit()
        done = registry("events verify", code=1)
        assert "broken at event 2." in done.err
        assert "[AUDIT_CHAIN_BROKEN]" in done.err
        database.execute("UPDATE events SET actor = ? WHERE chain = 'default' AND seq = 2", [actor])
    registry("events verify --head {head}", head=head)
    head.write_text(head.read_text().replace(str(seq), str(seq + 1), 1))
    assert f"broken at event {seq + 1}." in registry("events verify --head {head}", head=head, code=1).err


def test_storage_is_summed_up(registry, pushed):
    assert re.search(r"versions +.*MB\nstored +.*\(\d+\.\d%\)\nobjects", registry("storage").out)
    assert json.loads(registry("storage --json").out)["objects"] > 0


def test_the_cache_is_pruned(registry, pushed):
    registry("pull {name}", name=pushed)
    assert registry("cache prune").out == "removed 0 versions, 0 B\n"
    assert registry("cache prune --unused-days 0").out.startswith("removed 1 versions, 1.0 MB")


def test_the_cache_is_pruned_down_to_a_size(registry, pushed):
    registry("pull {name}", name=pushed)
    assert registry("cache prune --max-size 1").out == "removed 0 versions, 0 B\n"
    assert registry("cache prune --max-size 0.0001").out.startswith("removed 1 versions, 1.0 MB")


def test_what_the_cache_keeps_is_listed(registry, pushed):
    assert json.loads(registry("cache list --json").out) == {"items": []}
    folder = registry("pull {name}", name=pushed).out.strip()
    found = json.loads(registry("cache list --json").out)["items"]
    assert [(each["model"], each["number"], each["directory"]) for each in found] == [(pushed, 2, folder)]
    assert f"{pushed}:2" in registry("cache list").out
