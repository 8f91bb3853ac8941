"""The page that shows what changed, in a real Chromium."""

import pytest
from playwright.sync_api import expect

from tests.web.test_browser import CHROMIUM, PALE, UNNAMED, address, chromium, enter, page
from tests.web.test_diff import compared

__all__ = ["address", "chromium", "compared", "page"]  # fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]


def test_a_person_compares_a_version_with_its_parent_and_has_it_measured(page, compared):
    enter(page, "/models/vision/detector/versions/2")
    page.get_by_role("link", name="what changed").click()
    expect(page).to_have_title("vision/detector:1 → vision/detector:2 · weight-registry")
    expect(page.get_by_text("Different", exact=True)).to_be_visible()
    row = page.get_by_role("row").filter(has=page.get_by_text("model.22.conv.weight"))
    expect(row).to_contain_text("0.0312")
    expect(page.get_by_role("row").filter(has_text="model.9.old.weight")).to_contain_text("renamed")
    page.get_by_role("link", name="Identical").click()
    expect(page.get_by_text("model.3.conv.weight")).to_be_visible()
    page.get_by_role("button", name="Measure it").click()
    expect(page.get_by_text("A worker is measuring")).to_contain_text("1 of 2")
    page.get_by_role("link", name="Look again").click()
    expect(page.get_by_text("A worker is measuring")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1440])
def test_the_comparison_has_names_stands_out_and_fits(page, compared, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    enter(page, compared)
    expect(page.get_by_role("heading", level=1)).to_have_text("What changed")
    page.wait_for_load_state("load")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(PALE) == []
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
