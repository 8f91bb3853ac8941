"""Deciding on the pages, in a real Chromium."""

import pytest
from playwright.sync_api import expect

from tests.web import decisions, scene
from tests.web.decisions import PAGE
from tests.web.test_browser import CHROMIUM, PALE, UNNAMED, address, chromium, page
from tests.web.test_promotions import waiting

__all__ = ["address", "chromium", "page", "waiting"]  # fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]
WEAK = f"/models/{scene.DETECTOR}/versions/2"


@pytest.fixture
def enter(page, make_token):
    """`enter("quinn", "admin", path)` signs somebody in and goes there."""

    def sign_in(who, role, path="/"):
        secret = make_token(who, role, "vision")
        page.get_by_label("Token").fill(secret)
        page.get_by_role("button", name="Sign in").click()
        page.goto(path)

    return sign_in


def test_a_person_finds_what_waits_for_them_and_their_approval_applies_it(page, waiting, enter):
    enter("quinn", "promoter")
    expect(page.get_by_role("heading", name="Needs your decision")).to_be_visible()
    page.get_by_role("link", name="yolo11n: version 6 to production").click()
    expect(page.get_by_text("1 approval is missing")).to_be_visible()
    page.get_by_role("listitem").filter(has_text="beats incumbent").get_by_text("Evidence", exact=False).last.click()
    expect(page.get_by_text("delta")).to_be_visible()
    page.get_by_label("Comment").fill("compared them by hand")
    page.get_by_role("button", name="Approve").click()
    expect(page).to_have_url(f"{page.url.split('/models')[0]}{PAGE}")
    now = page.get_by_role("region", name="Now")
    expect(now).to_contain_text("Version 6")
    expect(now).to_contain_text("pat, quinn")
    expect(page.get_by_role("heading", name="Waiting")).to_have_count(0)


def test_a_person_rejects_with_a_comment(page, waiting, enter):
    enter("quinn", "promoter", PAGE)
    page.get_by_label("Comment").fill("not before the holidays")
    page.get_by_role("button", name="Reject").click()
    expect(page.get_by_role("row").filter(has_text="rejected")).to_contain_text("quinn: not before the holidays")
    expect(page.get_by_role("region", name="Now")).to_contain_text("Version 4")
    page.get_by_role("link", name="Rejected").click()
    expect(page.get_by_role("row")).to_have_count(2)


def test_a_dry_run_tells_which_gate_is_not_met_and_an_admin_forces_it_with_a_reason(page, waiting, enter):
    enter("quinn", "admin", WEAK)
    page.get_by_role("link", name="Promote, or see why not to production").click()
    expect(page.get_by_role("status")).to_contain_text("2 gates are not met")
    expect(page.get_by_role("listitem").filter(has_text="beats incumbent")).to_contain_text("not better by 0.023")
    expect(page.get_by_role("button", name="Promote")).to_have_count(0)
    page.get_by_text("Force it, past gates").click()
    page.get_by_role("button", name="Force to production").click()
    expect(page.get_by_label("Reason")).to_be_focused()  # the browser asks for it
    page.get_by_label("Reason").fill("the line stands still")
    page.get_by_role("button", name="Force to production").click()
    expect(page.get_by_role("region", name="Now")).to_contain_text("Forced past the policy by quinn")
    expect(page.get_by_role("row").filter(has_text="the line stands still")).to_contain_text("2 not met")


def test_a_person_rolls_back_with_a_reason(page, filled, enter):
    enter("quinn", "promoter", PAGE)
    page.get_by_role("region", name="Now").get_by_text("Roll back to 2").click()
    page.get_by_role("region", name="Now").get_by_label("Why").fill("4 sees ghosts at dusk")
    page.get_by_role("button", name="Roll back to version 2").first.click()
    expect(page.get_by_role("region", name="Now")).to_contain_text("Version 2")
    expect(page.get_by_role("row").filter(has_text="rollback")).to_contain_text("4 sees ghosts at dusk")


def test_a_freeze_is_seen_first(page, database, filled, waiting, enter):
    with database.transaction() as session:
        decisions.set_policy(session, filled, decisions.POLICY | {"freeze": "The fair: nothing moves."})
    enter("quinn", "promoter", PAGE)
    expect(page.get_by_role("status")).to_contain_text("The fair: nothing moves.")
    expect(page.get_by_text("Roll back to")).to_have_count(0)


def test_a_reader_sees_everything_and_no_form(page, waiting, enter):
    enter("ned", "reader", PAGE)
    expect(page.get_by_text("1 approval missing")).to_be_visible()
    for name in ("Approve", "Reject", "Cancel the request", "Roll back"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440])
def test_pages_of_promotions_have_names_stand_out_and_fit(page, waiting, enter, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    enter("quinn", "admin")
    staging = PAGE.replace("production", "staging")
    paths = ("/", PAGE, staging, f"{PAGE}/requests", f"{PAGE}/policy", f"/promotions/{waiting}")
    for path in (*paths, f"{WEAK}/promote?stage=production", WEAK):
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        assert page.evaluate(UNNAMED) == [], path
        assert page.evaluate(PALE) == [], path
        assert page.locator("h1").count() == 1, path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(heading => +heading.tagName[1])")
        assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False)), (path, levels)
