import json

URL = "https://hooks.example.com/models?token=x"


def make(registry, name, actions):
    return json.loads(registry(f"webhook create {URL} --model {name} {actions} --json").out)


def test_a_webhook_from_its_creation_to_its_end(registry, name, live):
    with live.client() as client:
        client.create_model(name)
    made = make(registry, name, "--action promotion:apply --action version:*")
    assert made["secret"].startswith("whsec_")
    webhook = made["id"]
    listed = registry("webhook list --model {name}", name=name)
    assert webhook in listed.out
    assert URL in listed.out
    shown = json.loads(registry(f"webhook show {webhook} --json").out)
    assert shown["actions"] == ["promotion:apply", "version:*"]
    assert "secret" not in shown
    assert "promotion:apply" in registry(f"webhook show {webhook}").out
    rotated = registry(f"webhook rotate {webhook} --overlap 60")
    assert rotated.out.startswith("whsec_")
    assert rotated.out.strip() != made["secret"]
    changed = registry(f"webhook update {webhook} --all-actions --disable --json")
    assert (json.loads(changed.out)["actions"], json.loads(changed.out)["enabled"]) == ([], False)
    assert "WEBHOOK_DISABLED" in registry(f"webhook test {webhook}", code=1).err
    registry(f"webhook update {webhook} --enable")
    registry(f"webhook delete {webhook}")
    assert json.loads(registry("webhook list --model {name} --json", name=name).out) == []


def test_what_was_sent_is_listed_and_sent_again(registry, name, live):
    with live.client() as client:
        client.create_model(name)
        webhook = make(registry, name, "--action model:update")["id"]
        client.update_model(name, description="new")
    [row] = json.loads(registry(f"webhook deliveries {webhook} --json").out)
    assert (row["action"], row["state"]) == ("model:update", "pending")
    assert "model:update" in registry(f"webhook deliveries {webhook} --state pending").out
    assert registry(f"webhook replay {webhook} {row['id']}").err == "sent again: 1\n"
    assert registry(f"webhook replay {webhook} --dead").err == "sent again: 0\n"


def test_what_contradicts_itself_is_a_mistake(typed):
    for line in (
        f"webhook create {URL}",
        f"webhook create {URL} --namespace a --model b",
        "webhook replay x",
        "webhook replay x y --dead",
        "webhook update x --action version:* --all-actions",
    ):
        assert "[USAGE]" in typed(line, code=2).err
