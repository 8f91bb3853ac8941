"""Webhooks and what is queued for them, on both databases."""

from datetime import timedelta

import pytest
from sqlalchemy import event as sql_event
from sqlalchemy import select

from registry.db.tables import Delivery, DeliveryAttempt, Event, Lane, Webhook
from registry.domain.audit import Action
from registry.domain.names import ModelName
from registry.domain.targets import Allowed, TargetRefusedError
from registry.domain.webhooks import UnknownActionError, message_id, valid_secrets
from registry.services import audit, deliveries, dispatching, models, webhooks
from registry.services.actors import SYSTEM, NamespaceNotFoundError, PermissionDeniedError
from registry.services.dispatching import NO_OUTCOME, Outcome
from tests.support.world import T0

URL = "https://hooks.example.com/a?token=hidden"
NOBODY = Allowed()
YOLO, OTHER = ModelName("default", "yolo"), ModelName("default", "other")


@pytest.fixture
def scene(session, admin):
    for name in (YOLO, OTHER):
        models.create(session, admin, name, now=T0)
    return session


def make(session, admin, owner="default", url=URL, **more):
    return webhooks.create(session, admin, owner, url, allowed=NOBODY, now=T0, **more)


def happen(session, subject=str(YOLO), action=Action.MODEL_UPDATE, **detail):
    return audit.record(session, SYSTEM, action, subject, detail, chain="default", now=T0)


def queued(session, webhook):
    """Action and lane of what is queued for a webhook, in order."""
    query = (
        select(Event.action, Delivery.lane)
        .join(Delivery, (Delivery.chain == Event.chain) & (Delivery.seq == Event.seq))
        .where(Delivery.webhook_id == webhook.row.id)
        .order_by(Delivery.seq)
    )
    return [tuple(row) for row in session.execute(query)]


def claim(session, now=T0, limit=10, admit=lambda _webhook: True, full=()):
    return dispatching.claim(session, limit=limit, full=full, admit=admit, now=now)


def settle(session, work, status=200, now=T0, **more):
    outcome = Outcome(status, 5, None if status else "no answer")
    dispatching.settle(session, work, outcome, chance=0.5, now=now, **more)


def state(session, delivery_id):
    session.flush()
    session.expire_all()
    return session.get_one(Delivery, delivery_id).state


def test_an_event_is_queued_for_those_who_asked_for_it(scene, admin):
    everything, _ = make(scene, admin)
    of_model, _ = make(scene, admin, YOLO)
    some, _ = make(scene, admin, actions=["promotion:*", "model:update"])
    happen(scene)
    happen(scene, f"{OTHER}:3", Action.VERSION_PUBLISH)
    happen(scene, f"{YOLO}@production", Action.PROMOTION_APPLY)
    happen(scene, "default", Action.STAGES_SET)
    assert queued(scene, everything)[-4:] == [
        ("model:update", str(YOLO)),
        ("version:publish", str(OTHER)),
        ("promotion:apply", str(YOLO)),
        ("stages:set", "default"),
    ]
    assert [action for action, _ in queued(scene, of_model)][-2:] == ["model:update", "promotion:apply"]
    assert [action for action, _ in queued(scene, some)] == ["model:update", "promotion:apply"]


def test_an_event_of_another_namespace_is_not_sent(scene, admin, people):
    people.secret("ana", "admin", "vision")
    theirs, _ = make(scene, admin, "vision")
    before = queued(scene, theirs)
    happen(scene)
    assert queued(scene, theirs) == before == [("webhook:create", "vision")]


def test_what_is_rolled_back_is_not_queued(database, admin):
    with database.transaction() as session:
        found, _ = make(session, admin)

    with database.transaction() as session:
        happen(session)
        session.rollback()
    with database.transaction(read_only=True) as session:
        assert [action for action, _ in queued(session, found)] == ["webhook:create"]


def test_without_a_webhook_an_event_costs_one_more_query(scene, admin):
    statements = []
    happen(scene)
    scene.flush()
    engine = scene.get_bind()
    sql_event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    happen(scene)
    scene.flush()
    assert len([each for each in statements if "webhook" in each or "lanes" in each or "deliver" in each]) == 1


def test_a_message_is_sent_in_order_and_the_next_only_after_the_one_before(scene, admin):
    found, _ = make(scene, admin, actions=["model:update"])
    ids = [message_id(found.row.id, "default", happen(scene).seq) for _ in range(3)]
    for expected in ids:
        [work] = claim(scene)
        assert work.delivery_id == expected
        assert claim(scene) == []
        settle(scene, work)
    assert claim(scene) == []
    assert [state(scene, each) for each in ids] == ["delivered"] * 3


def test_lanes_and_webhooks_do_not_wait_for_each_other(scene, admin):
    first, _ = make(scene, admin, actions=["model:update"])
    second, _ = make(scene, admin, actions=["model:update"])
    for _ in range(2):
        happen(scene)
        happen(scene, str(OTHER))
    works = claim(scene)
    assert {(work.webhook_id, work.lane) for work in works} == {
        (each.row.id, str(lane)) for each in (first, second) for lane in (YOLO, OTHER)
    }
    stuck = works[0]
    settle(scene, stuck, None)
    for work in works[1:]:
        settle(scene, work)
    assert (stuck.webhook_id, stuck.lane) not in {(work.webhook_id, work.lane) for work in claim(scene)}


def test_what_has_no_room_is_left_for_later(scene, admin):
    first, _ = make(scene, admin, actions=["model:update"])
    second, _ = make(scene, admin, actions=["model:update"])
    happen(scene)
    assert [work.webhook_id for work in claim(scene, full={first.row.id})] == [second.row.id]
    assert claim(scene, admit=lambda _webhook: False) == []
    assert [work.webhook_id for work in claim(scene)] == [first.row.id]


def test_a_failure_is_tried_again_on_schedule_until_it_is_dead_and_the_lane_goes_on(scene, admin):
    found, _ = make(scene, admin, actions=["model:update"])
    first, second = (message_id(found.row.id, "default", happen(scene).seq) for _ in range(2))
    schedule = (timedelta(seconds=5), timedelta(seconds=30))
    at, waited = T0, []
    for status in (500, None, 302):
        [work] = claim(scene, now=at)
        assert work.delivery_id == first
        settle(scene, work, status, now=at, schedule=schedule)
        scene.flush()
        if state(scene, first) == "pending":
            due = scene.get_one(Delivery, first).due_at
            assert claim(scene, now=due - timedelta(milliseconds=1)) == []
            waited.append((due - at).total_seconds())
            at = due
    assert waited == [5, 30]
    assert state(scene, first) == "dead"
    [work] = claim(scene, now=at)
    assert work.delivery_id == second
    rows = scene.scalars(select(DeliveryAttempt).where(DeliveryAttempt.delivery_id == first)).all()
    assert [(each.attempt, each.status, each.error) for each in rows] == [
        (1, 500, None),
        (2, None, "no answer"),
        (3, 302, None),
    ]


def test_the_work_of_a_dispatcher_that_died_is_taken_up_when_its_lease_ends(scene, admin):
    make(scene, admin, actions=["model:update"])
    happen(scene)
    [lost] = claim(scene)
    assert claim(scene, now=T0 + dispatching.LEASE - timedelta(seconds=1)) == []
    [again] = claim(scene, now=T0 + dispatching.LEASE)
    assert again.delivery_id == lost.delivery_id
    assert (lost.attempt, again.attempt) == (1, 2)
    log = webhooks.attempts(scene, [lost.delivery_id])[lost.delivery_id]
    assert [each.error for each in log] == [NO_OUTCOME, NO_OUTCOME]
    # The one that was only slow comes back: its failure decides nothing, its success counts.
    settle(scene, lost, 500)
    assert claim(scene, now=T0 + dispatching.LEASE) == []
    settle(scene, lost, 200)
    assert state(scene, lost.delivery_id) == "delivered"
    settle(scene, again, 500, now=T0 + dispatching.LEASE)
    assert state(scene, lost.delivery_id) == "delivered"
    assert claim(scene, now=T0 + timedelta(days=9)) == []


def test_the_same_event_has_the_same_id_and_bytes_each_time(scene, admin):
    found, secret = make(scene, admin, actions=["model:update"])
    event = happen(scene, note="x")
    [first] = claim(scene)
    settle(scene, first, 500)
    [second] = claim(scene, now=T0 + timedelta(minutes=1))
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == message_id(found.row.id, "default", event.seq)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    for hidden in (secret, "hidden", "model:update"):
        assert hidden not in repr(first)


def test_410_disables_the_webhook_and_what_waits_dies(scene, admin):
    found, _ = make(scene, admin, actions=["model:update", "webhook:update"])
    other, _ = make(scene, admin, actions=["webhook:update"])
    happen(scene)
    last = message_id(found.row.id, "default", happen(scene, str(OTHER)).seq)
    work = next(work for work in claim(scene, limit=1))
    settle(scene, work, 410)
    scene.expire_all()
    assert not scene.get_one(Webhook, found.row.id).is_enabled
    assert state(scene, work.delivery_id) == state(scene, last) == "dead"
    assert [work.webhook_id for work in claim(scene)] == [other.row.id]
    happen(scene)
    assert claim(scene) == []
    with pytest.raises(webhooks.WebhookDisabledError):
        webhooks.replay(scene, admin, found.row.id, None, now=T0)
    webhooks.update(scene, admin, found.row.id, allowed=NOBODY, now=T0, enabled=True)
    assert webhooks.replay(scene, admin, found.row.id, None, now=T0) == 2
    assert len({work.delivery_id for work in claim(scene)} & {work.delivery_id, last}) == 2


def test_a_test_event_reaches_that_webhook_alone_past_what_waits(scene, admin):
    found, _ = make(scene, admin, YOLO, actions=["promotion:apply"])
    other, _ = make(scene, admin)
    happen(scene, f"{YOLO}@production", Action.PROMOTION_APPLY)
    [stuck] = [work for work in claim(scene) if work.webhook_id == found.row.id]
    settle(scene, stuck, 500)
    delivery = webhooks.test(scene, admin, found.row.id, now=T0)
    works = {work.webhook_id: work for work in claim(scene)}
    assert works[found.row.id].delivery_id == delivery.id
    assert b'"type":"webhook.test"' in works[found.row.id].body
    assert "webhook:test" not in [action for action, _ in queued(scene, other)]


def test_a_replay_keeps_its_id_and_its_order_and_delays_nothing_new(scene, admin):
    found, _ = make(scene, admin, actions=["model:update"])
    ids = [message_id(found.row.id, "default", happen(scene).seq) for _ in range(2)]
    for _ in ids:
        [work] = claim(scene)
        settle(scene, work, 500, schedule=())
    assert [state(scene, each) for each in ids] == ["dead", "dead"]
    assert webhooks.replay(scene, admin, found.row.id, None, now=T0) == 2
    new = message_id(found.row.id, "default", happen(scene).seq)
    works = {work.delivery_id: work for work in claim(scene)}
    assert set(works) == {ids[0], new}
    assert works[ids[0]].headers["webhook-id"] == ids[0]
    settle(scene, works[ids[0]])
    assert [work.delivery_id for work in claim(scene)] == [ids[1]]


def test_a_delivery_that_waits_for_its_time_is_tried_at_once_when_replayed(scene, admin):
    found, _ = make(scene, admin, actions=["model:update"])
    happen(scene)
    [work] = claim(scene)
    settle(scene, work, 500)
    assert claim(scene) == []
    assert webhooks.replay(scene, admin, found.row.id, work.delivery_id, now=T0) == 1
    assert [each.delivery_id for each in claim(scene)] == [work.delivery_id]
    with pytest.raises(webhooks.DeliveryNotFoundError):
        webhooks.replay(scene, admin, found.row.id, "msg_x", now=T0)


def test_while_secrets_overlap_messages_are_signed_twice(scene, admin):
    found, old = make(scene, admin, actions=["model:update"])
    _, new = webhooks.rotate(scene, admin, found.row.id, overlap=timedelta(hours=1), now=T0)
    assert valid_secrets(found.row.secrets, now=T0) == [new, old]
    for _ in range(2):
        happen(scene)
    [work] = claim(scene)
    assert len(work.headers["webhook-signature"].split()) == 2
    settle(scene, work)
    [work] = claim(scene, now=T0 + timedelta(hours=1))
    assert len(work.headers["webhook-signature"].split()) == 1


def test_nothing_more_is_sent_to_a_deleted_webhook_and_its_secrets_are_gone(scene, admin):
    found, _ = make(scene, admin)
    happen(scene)
    webhooks.delete(scene, admin, found.row.id, now=T0)
    happen(scene)
    assert claim(scene) == []
    assert scene.get_one(Webhook, found.row.id).secrets == []
    with pytest.raises(webhooks.WebhookNotFoundError):
        webhooks.find(scene, admin, found.row.id)


def test_no_event_tells_a_secret_or_the_whole_url(scene, admin):
    found, secret = make(scene, admin)
    _, second = webhooks.rotate(scene, admin, found.row.id, overlap=timedelta(hours=1), now=T0)
    webhooks.update(scene, admin, found.row.id, allowed=NOBODY, now=T0, url="https://other.example.com/x?token=hidden")
    webhooks.delete(scene, admin, found.row.id, now=T0)
    told = str([(each.action, each.subject, each.detail) for each in scene.scalars(select(Event))])
    assert "https://hooks.example.com" in told
    assert "https://other.example.com" in told
    for hidden in (secret, second, "hidden", "whsec_"):
        assert hidden not in told


def test_only_those_who_may_manage_webhooks_find_one(scene, admin, make_actor):
    found, _ = make(scene, admin, YOLO)
    for role, refusal in ((None, webhooks.WebhookNotFoundError), ("promoter", PermissionDeniedError)):
        actor = make_actor(f"a{role}".lower(), role)
        with pytest.raises(refusal):
            webhooks.find(scene, actor, found.row.id)
        with pytest.raises(NamespaceNotFoundError if role is None else PermissionDeniedError):
            make(scene, actor)
    assert webhooks.find(scene, make_actor("nora", "admin"), found.row.id).model == str(YOLO)


def test_a_target_that_is_not_public_or_an_unknown_action_is_refused(scene, admin):
    for url in ("http://hooks.example.com/", "https://127.0.0.1/", "https://localhost/"):
        with pytest.raises(TargetRefusedError):
            make(scene, admin, url=url)
    with pytest.raises(UnknownActionError):
        make(scene, admin, actions=["promotion:applied"])


def test_a_namespace_has_a_bounded_number_of_webhooks(scene, admin, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 2)
    make(scene, admin)
    make(scene, admin, YOLO)
    with pytest.raises(webhooks.TooManyWebhooksError):
        make(scene, admin)


def test_the_log_of_what_ended_long_ago_is_forgotten(scene, admin):
    make(scene, admin, actions=["model:update"])
    happen(scene)
    [done] = claim(scene)
    settle(scene, done)
    happen(scene)
    deliveries.forget_ended(scene, now=T0 + deliveries.KEPT)
    assert len(scene.scalars(select(Delivery)).all()) == 2
    deliveries.forget_ended(scene, now=T0 + deliveries.KEPT + timedelta(seconds=1))
    assert [each.state for each in scene.scalars(select(Delivery))] == ["pending"]
    assert scene.scalars(select(DeliveryAttempt)).all() == []
    assert len(scene.scalars(select(Lane)).all()) == 1
