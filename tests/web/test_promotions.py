"""Deciding on the pages, as a browser sends the forms."""

import re
from datetime import UTC, datetime

import pytest
from sqlalchemy import event

from registry.db.tables import Promotion
from registry.domain.audit import Action
from registry.domain.gates import GATES
from registry.domain.policy import read_policy
from registry.services import deciding, pointers
from registry.web import formatting, wording
from tests.support.factories import events
from tests.web import decisions, scene
from tests.web.decisions import PAGE
from tests.web.test_pages import SCRIPT, following, plain
from tests.web.test_signing_in import FOREIGN

OWN = {"Sec-Fetch-Site": "same-origin"}
PROMOTE = f"/models/{scene.DETECTOR}/versions/6/promote"


@pytest.fixture
def waiting(database, filled, make_actor):
    """The promotion of version 6, which lacks one approval."""
    made = {who: make_actor(who, "promoter", "vision") for who in ("rita", "pat")}
    with database.transaction() as session:
        return decisions.fill(session, filled, lambda name, *_: made[name])


@pytest.fixture
def look(database):
    """`look(id)` gives a promotion and its evidence as it is now."""

    def at(promotion_id):
        with database.transaction(read_only=True) as session:
            return session.get_one(Promotion, promotion_id)

    return at


def holder(database, filled, stage="production"):
    with database.transaction(read_only=True) as session:
        pointer = pointers.find_stage(session, decisions.detector(session, filled), stage)
        return (pointer.number, pointer.seq) if pointer is not None else (None, 0)


def send(browser, path, **data):
    return browser.post(path, data=data, headers=OWN)


def seen(promotion):
    return f"sha256:{promotion.evidence_sha256}"


def forms(page):
    return re.findall(r'<form[^>]+action="([^"]+)"', page.text)


def test_a_stage_tells_what_waits_on_it_and_what_failed(waiting, sign_in):
    text = plain(sign_in("ana", "reader", "vision").get(PAGE))
    assert "1 promotion waits for a decision" in text
    assert "Version 6 to production ends in 6 days" in text
    assert "1 approval missing, 1 of 2 given" in text
    assert "pat approved" in text
    assert "Looked at 200 frames of the night set" in text
    assert "beats incumbent met mAP50-95 is 0.421 and version 4 has 0.412" in text
    assert re.search(r"promote \S+ \S+ failed 4 → to 3 .* mAP50-95 is 0.394 .* And 2 more\.", text)


def test_a_stage_tells_its_policy_in_words_and_as_it_is(waiting, sign_in):
    text = plain(sign_in("ana", "reader", "vision").get(PAGE))
    assert "mAP50-95 must be at least 0.4 on coco-val2017, split val." in text
    assert "mAP50-95 must be higher than the holder's, by at least 0.002 on the same dataset and split." in text
    assert "The version must have held staging for 1 hour without a break." in text
    assert "2 of the promoters and admins must agree, also to a roll back." in text
    assert "A request ends after 7 days." in text
    assert "Revision 2 of the model’s own policy, set by marie on 2026-01-08 03:04 UTC : two people look" in text
    assert '"op": ">="' in text


def test_the_last_approval_applies_it_and_the_stage_tells_who_agreed(database, filled, waiting, look, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    assert f"/promotions/{waiting}/approve" in forms(browser.get(PAGE))
    answer = send(browser, f"/promotions/{waiting}/approve", comment="fine", evidence=seen(look(waiting)))
    assert (answer.status_code, answer.location) == (303, PAGE)
    assert look(waiting).state == "applied"
    text = plain(browser.get(PAGE))
    assert "has held version 6 for less than a minute" in text
    assert "Why Better on every class, above all at night." in text
    assert "Approved by pat, quinn" in text
    assert "by revision 2 of the policy" in text
    assert "Gates it met ✓ metric met mAP50-95 is 0.421" in text
    assert re.search(
        r"4 promote 4 → to 6 \S+ \S+ UTC less than a minute so far rita approved by pat, quinn 5 met", text
    )


def test_one_rejection_ends_it_and_its_comment_is_told(database, filled, waiting, look, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    assert send(browser, f"/promotions/{waiting}/reject", comment="not on a Friday").location == f"{PAGE}#refused"
    assert look(waiting).state == "rejected"
    assert holder(database, filled)[0] == 4
    assert "quinn: not on a Friday" in plain(browser.get(PAGE))
    assert "quinn: not on a Friday" in plain(browser.get(f"{PAGE}/requests?state=rejected"))
    assert "not on a Friday" not in plain(browser.get(f"{PAGE}/requests?state=failed"))


def test_who_asked_may_cancel_and_another_promoter_may_not(waiting, look, sign_in):
    other = sign_in("quinn", "promoter", "vision")
    assert "Cancel the request" not in other.get(PAGE).text
    assert send(other, f"/promotions/{waiting}/cancel").status_code == 403
    rita = sign_in("rita", "promoter", "vision")
    assert "Cancel the request" in rita.get(PAGE).text
    assert send(rita, f"/promotions/{waiting}/cancel", comment="found a bug").status_code == 303
    assert look(waiting).state == "cancelled"


@pytest.mark.parametrize("who", ["rita", "ana", "pat"])
def test_who_asked_uploaded_or_agreed_already_is_not_offered_to_approve(waiting, look, sign_in, who):
    browser = sign_in(who, "promoter", "vision")
    for path in (PAGE, f"/promotions/{waiting}"):
        page = browser.get(path)
        assert f"/promotions/{waiting}/approve" not in page.text
        assert f"/promotions/{waiting}/reject" in page.text
        told = "You have approved this." if who == "pat" else f"{who} {'asked' if who == 'rita' else 'uploaded'}"
        assert told in plain(page)
    send(browser, f"/promotions/{waiting}/approve", evidence=seen(look(waiting)))
    assert look(waiting).state == "pending"


def test_who_may_only_read_sees_no_form_and_is_refused_when_posting_anyway(database, filled, waiting, look, sign_in):
    browser = sign_in("ned", "writer", "vision")
    for path in (PAGE, f"/promotions/{waiting}", f"{PROMOTE}?stage=production", f"{PAGE}/policy"):
        assert set(forms(browser.get(path))) == {"/logout"}, path
    before = holder(database, filled)
    for path in ("approve", "reject", "cancel"):
        assert send(browser, f"/promotions/{waiting}/{path}").status_code == 403
    assert send(browser, f"{PAGE}/rollback", to=2, seq=before[1]).status_code == 403
    assert send(browser, PROMOTE, stage="production", seq=before[1]).status_code == 403
    assert look(waiting).state == "pending"
    assert holder(database, filled) == before


def test_a_promoter_may_not_force(database, filled, waiting, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    assert "Force" not in browser.get(f"{PROMOTE}?stage=production").text
    answer = send(browser, PROMOTE, stage="production", seq=3, force="1", message="because")
    assert answer.status_code == 403
    assert holder(database, filled)[0] == 4


def test_a_form_of_another_site_decides_nothing(database, filled, waiting, look, sign_in):
    browser = sign_in("quinn", "admin", "vision")
    paths = [f"/promotions/{waiting}/{verb}" for verb in ("approve", "reject", "cancel")]
    for path in (*paths, f"{PAGE}/rollback", PROMOTE):
        for headers in FOREIGN:
            data = {"stage": "production", "to": "2", "force": "1", "message": "x"}
            answer = browser.post(path, data=data, headers=headers)
            assert (answer.status_code, "FOREIGN_FORM" in answer.text) == (403, True)
    assert look(waiting).state == "pending"
    assert holder(database, filled)[0] == 4


def test_whoever_is_not_signed_in_comes_back_to_the_page_of_the_form(app, waiting):
    referrer = {"Referer": f"http://localhost{PAGE}"}
    answer = app.test_client().post(f"/promotions/{waiting}/approve", headers=OWN | referrer)
    assert answer.location == f"/login?next={PAGE}"
    stranger = {"Referer": f"http://elsewhere.example{PAGE}"}
    assert app.test_client().post(f"/promotions/{waiting}/approve", headers=OWN | stranger).location == "/login"


def test_evidence_that_changed_unseen_is_refused_and_shown_from_then_on(database, filled, waiting, look, sign_in):
    with database.transaction() as session:
        stale = seen(look(waiting))
        gates = [gate | {"value": 0.3} if gate["kind"] == "metric" else gate for gate in decisions.POLICY["gates"]]
        decisions.set_policy(session, filled, decisions.POLICY | {"gates": gates})
    browser = sign_in("quinn", "promoter", "vision")
    headers = OWN | {"Referer": f"http://localhost{PAGE}"}
    answer = browser.post(f"/promotions/{waiting}/approve", data={"evidence": stale}, headers=headers)
    assert (answer.status_code, "EVIDENCE_CHANGED" in answer.text) == (409, True)
    assert f'<a href="{PAGE}">Back to the page</a>' in answer.text
    text = plain(browser.get(PAGE))
    assert "mAP50-95 >= 0.3 is required" in text
    assert "2 approvals missing, 0 of 2 given" in text
    assert re.search(r"pat approved \S+ \S+ UTC lapsed", text)
    assert send(browser, f"/promotions/{waiting}/approve", evidence=seen(look(waiting))).status_code == 303


def test_a_dry_run_tells_gate_by_gate_why_not_and_offers_nothing(database, filled, waiting, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    page = browser.get(f"/models/{scene.DETECTOR}/versions/2/promote?stage=production")
    text = plain(page)
    assert "It cannot be promoted: 2 gates are not met" in text
    assert "✗ metric not met mAP50-95 is 0.389" in text
    assert "✓ no pickle met" in text
    assert set(forms(page)) == {"/logout"}


def test_a_promotion_that_fails_shows_its_gates(database, filled, waiting, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    path = f"/models/{scene.DETECTOR}/versions/2/promote"
    answer = send(browser, path, stage="production", seq=3, message="try")
    assert re.fullmatch(r"/promotions/[0-9a-f]{32}", answer.location)
    assert "2 gates are not met, and nothing has moved" in plain(browser.get(answer.location))
    assert holder(database, filled)[0] == 4


def test_a_version_is_promoted_where_nothing_is_asked(database, filled, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    page = browser.get(f"{PROMOTE}?stage=production")
    assert "It can be promoted at once" in plain(page)
    assert send(browser, PROMOTE, stage="production", seq=3, message="why not").location == PAGE
    assert holder(database, filled) == (6, 4)
    again = send(browser, f"/models/{scene.DETECTOR}/versions/2/promote", stage="production", seq=3)
    assert (again.status_code, "STAGE_MOVED" in again.text) == (409, True)


def test_a_promotion_that_needs_approvals_waits_for_them(waiting, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    assert "It can be asked for, and needs 2 approvals" in plain(browser.get(f"{PROMOTE}?stage=production"))
    assert send(browser, PROMOTE, stage="production", seq=3).location == f"{PAGE}#waiting"
    assert "2 promotions wait for a decision" in plain(browser.get(PAGE))


def test_a_forced_promotion_is_marked_for_ever(database, filled, waiting, sign_in):
    browser = sign_in("quinn", "admin", "vision")
    path = f"/models/{scene.DETECTOR}/versions/2/promote"
    refused = send(browser, path, stage="production", seq=3, force="1")
    assert (refused.status_code, "REASON_REQUIRED" in refused.text) == (422, True)
    assert send(browser, path, stage="production", seq=3, force="1", message="the field is down").location == PAGE
    text = plain(browser.get(PAGE))
    assert "Forced past the policy by quinn the field is down" in text
    assert "Gates it was put past ✗ metric not met" in text
    assert "nobody, it was forced" in text
    with database.transaction() as session:
        decisions.set_policy(session, filled, None)
    assert send(browser, PROMOTE, stage="production", seq=4, message="repaired").location == PAGE
    text = plain(browser.get(PAGE))
    assert "Forced past the policy" not in text
    assert re.search(r"4 forced 4 → to 2 .* quinn 2 not met the field is down", text)
    version = plain(browser.get(path.removesuffix("/promote")))
    assert re.search(r"production, \S+ \S+ forced applied .* by quinn the field is down", version)


def test_a_stage_goes_back_to_a_former_holder_with_a_reason(database, filled, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    assert browser.get(PAGE).text.count(f'action="{PAGE}/rollback"') == 3  # beside the holder, and at 2 and at 1
    assert send(browser, f"{PAGE}/rollback", to="1", seq="3", message="4 sees ghosts").location == PAGE
    assert holder(database, filled) == (1, 4)
    text = plain(browser.get(PAGE))
    assert "Why 4 sees ghosts How rollback 4 → to 1" in text
    stale = send(browser, f"{PAGE}/rollback", to="2", seq="3", message="me too")
    assert (stale.status_code, "STAGE_MOVED" in stale.text) == (409, True)
    assert send(browser, f"{PAGE}/rollback", to="6", seq="4").status_code == 409
    for to in ("x", "-1", "9" * 30, "²"):
        assert send(browser, f"{PAGE}/rollback", to=to, seq="4").status_code == 422, to


def test_a_frozen_stage_says_why_and_offers_no_move(database, filled, waiting, look, sign_in):
    with database.transaction() as session:
        decisions.set_policy(session, filled, decisions.POLICY | {"freeze": "The fair: nothing moves until Monday."})
    browser = sign_in("quinn", "promoter", "vision")
    page = browser.get(PAGE)
    assert "Frozen: nothing moves for now The fair: nothing moves until Monday. Set by marie" in plain(page)
    assert "/rollback" not in page.text
    page = browser.get(f"{PROMOTE}?stage=production")
    assert "Production is frozen" in plain(page)
    assert set(forms(page)) == {"/logout"}
    assert send(browser, f"{PAGE}/rollback", to="2", seq="3").status_code == 409
    assert send(browser, PROMOTE, stage="production", seq="3").status_code == 409
    send(browser, f"/promotions/{waiting}/approve", evidence=seen(look(waiting)))
    assert look(waiting).state == "pending"


def test_a_promotion_whose_time_is_over_is_expired_whatever_the_sweeper_does(database, waiting, look, sign_in):
    with database.transaction() as session:
        promotion = session.get_one(Promotion, waiting)
        promotion.expires_at = promotion.requested_at
    browser = sign_in("quinn", "promoter", "vision")
    page = browser.get(f"/promotions/{waiting}")
    assert "expired" in plain(page)
    assert set(forms(page)) == {"/logout"}
    assert f"/promotions/{waiting}/approve" not in browser.get(PAGE).text


def test_the_first_page_lists_what_waits_for_whom(waiting, sign_in):
    told = "Needs your decision vision/ yolo11n: version 6 to production asked for by rita"
    assert told in plain(sign_in("quinn", "promoter", "vision").get("/"))
    for who, role, namespace in (
        ("pat", "promoter", "vision"), ("rita", "promoter", "vision"), ("ana", "promoter", "vision"),
        ("ned", "reader", "vision"), ("eve", "admin", "text"),
    ):  # fmt: skip
        assert "Needs your decision" not in sign_in(who, role, namespace).get("/").text, who
    assert told in plain(sign_in("root", is_admin=True).get("/"))


def test_a_model_and_a_version_tell_what_waits(waiting, sign_in):
    browser = sign_in("ana", "reader", "vision")
    assert "1 promotion waits on production" in plain(browser.get(f"/models/{scene.DETECTOR}"))
    text = plain(browser.get(f"/models/{scene.DETECTOR}/versions/6"))
    assert re.search(r"production, \S+ \S+ promote pending .* by rita Better on every class", text)
    assert "Promote, or see why not to production" in text


def test_a_policy_tells_what_each_revision_changed_and_by_whom(database, filled, waiting, sign_in):
    browser = sign_in("ana", "reader", "vision")
    page = browser.get(f"{PAGE}/policy")
    text = plain(page)
    assert "Revision 2 in force by marie" in text
    assert re.search(r'\+ "approvals": \{', text)
    assert "no pickles where customers are" in text
    assert "The namespace never had a policy" in plain(browser.get(f"{PAGE}/policy?scope=namespace"))
    first = browser.get(f"{PAGE}/policy?limit=1")
    assert "+   &#34;approvals" in first.text
    assert "Revision 1" in plain(browser.get(following(first)))


def test_requests_are_paged(database, filled, waiting, sign_in):
    browser = sign_in("ana", "reader", "vision")
    address, found = f"{PAGE}/requests?limit=2", []
    while address:
        page = browser.get(address)
        found += re.findall(r'href="/promotions/([0-9a-f]{32})"', page.text)
        address = following(page)
    assert len(found) == len(set(found)) == 5
    assert browser.get(f"{PAGE}/requests?state=nonsense").status_code == 422
    assert browser.get(f"{PAGE}/requests?cursor=WyJhIiwgImIiXQ==").status_code == 422


def test_a_hidden_promotion_is_as_absent_as_one_that_never_was(waiting, sign_in):
    browser = sign_in("eve", "admin", "text")
    for path in (waiting, "0" * 32, "nonsense"):
        assert browser.get(f"/promotions/{path}").status_code == 404
        assert send(browser, f"/promotions/{path}/approve").status_code == 404


def test_what_people_wrote_of_promotions_stays_text(database, filled, waiting, sign_in):
    label = {"kind": "tag", "key": SCRIPT, "value": SCRIPT}
    with database.transaction() as session:
        deciding.reject(session, filled, waiting, now=datetime.now(UTC), comment=SCRIPT)
        decisions.set_policy(session, filled, {"gates": [label], "freeze": SCRIPT}, message=SCRIPT)
        decisions.ask(session, filled, 2, kind="force", message=SCRIPT)
    browser = sign_in("root", is_admin=True)
    version = f"/models/{scene.DETECTOR}/versions/2"
    pages = (PAGE, f"/promotions/{waiting}", f"{PAGE}/requests", f"{PAGE}/policy", version)
    for path in (*pages, f"{version}/promote?stage=production"):
        page = browser.get(path)
        assert page.status_code == 200
        assert "alert(" in page.text
        assert "<script" not in page.text.lower()
        assert "<img" not in page.text.lower()


def test_comments_are_kept_as_typed_and_not_without_end(database, waiting, sign_in):
    browser = sign_in("quinn", "promoter", "vision")
    for comment in ("x" * 10_001, "a\0b"):
        assert send(browser, f"/promotions/{waiting}/reject", comment=comment).status_code == 422
    assert send(browser, f"/promotions/{waiting}/approve", evidence="nonsense").status_code == 422
    assert send(browser, f"/promotions/{waiting}/reject", comment=" one\r\ntwo ").status_code == 303
    with database.transaction(read_only=True) as session:
        [rejected] = events(session, Action.PROMOTION_REJECT)
        assert rejected[2]["comment"] == "one\ntwo"


def test_a_stage_asks_the_database_as_often_for_many_as_for_few(app, filled, waiting, sign_in, make_actor):
    browser, database = sign_in("quinn", "admin", "vision"), app.extensions["registry"].database
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    paths = ("/", PAGE, f"{PAGE}/requests", f"/models/{scene.DETECTOR}", f"/models/{scene.DETECTOR}/versions/6")

    def count():
        found = []
        for path in paths:
            asked.clear()
            assert browser.get(path).status_code == 200
            found.append(len(asked))
        return found

    browser.get("/")
    few = count()
    sam = make_actor("sam", "promoter", "vision")
    with database.transaction() as session:
        for _ in range(6):
            more = decisions.ask(session, sam, 6)
            deciding.approve(session, filled, more.id, stages=scene.STAGES, now=more.requested_at)
            decisions.ask(session, sam, 2)
            decisions.ask(session, filled, 3, "staging", kind="force", message="again")
    assert count() == few


def test_every_kind_of_gate_has_words_and_a_new_one_is_told_by_its_meaning(monkeypatch):
    told = [
        wording.gate_words({"kind": "no_nan"}),
        wording.gate_words({"kind": "no_nan", "allow_zero_tensors": True}),
        wording.gate_words({"kind": "lineage_known", "allow_scratch": True}),
        wording.gate_words({"kind": "licence", "allowed": ["MIT", "Apache-2.0"]}),
        wording.gate_words({"kind": "fresh", "days": 30.0, "metric": "loss", "dataset": f"d=sha256:{'ab' * 32}"}),
        wording.gate_words({"kind": "metric"}),
        wording.gate_words({"kind": "unheard_of", "number": 3}),
    ]
    assert told == [
        "No element may be NaN or infinite, and no tensor all zeros.",
        "No element may be NaN or infinite.",
        "Its lineage must be known to the roots; it may have been trained from scratch.",
        "Its licence must be one of MIT, Apache-2.0.",
        "loss must have been recorded within the last 30 days on d (abababababab).",
        GATES["metric"].meaning,
        "This kind of gate is not known, so nothing meets it. (number 3)",
    ]
    assert set(wording._SENTENCES) == set(GATES)


def test_people_named_and_automatic_promotion_read_as_sentences():
    document = {
        "approvals": {"required": 1, "users": ["ada", "grace"]},
        "auto": {"metric": "loss", "direction": "min", "min_delta": 0.01},
        "rollback_skips_approvals": True,
        "expires_s": 5_400,
    }
    told = dict(wording.words(read_policy(document, stages=["production"], stage="production")))
    assert told["approvals"].startswith("1 of ada, grace must agree, but not to a roll back.")
    assert told["approvals"].endswith("ends after 90 minutes.")
    assert told["automatic"].endswith("if its loss is lower than the holder's by at least 0.01.")


def test_a_duration_reads_exactly():
    shown = [formatting.duration(seconds) for seconds in (0, 1, 90, 3_600, 129_600, 604_800)]
    assert shown == ["0 seconds", "1 second", "90 seconds", "1 hour", "36 hours", "7 days"]
