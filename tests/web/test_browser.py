"""The pages in a real Chromium, as a person sees and uses them."""

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, Page, expect, sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.support.world import ADMIN_SECRET

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PAGES = ("/", "/models/vision/yolo11n", "/models/vision/yolo11n/versions/4", "/models/vision/yolo11n/stages/production")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

# Names that a screen reader would read, and how dark the text stands out from what is behind it.
UNNAMED = """() => [...document.querySelectorAll('a, button, input:not([type=hidden])')].filter(element =>
    !(element.getAttribute('aria-label') || element.textContent.trim() || element.labels?.length)
).map(element => element.outerHTML)"""
PALE = """() => {
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(
        c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
    ).reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color[3] === undefined) return color;
        }
        return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = new Set();
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim()) continue;
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) found.add(element.outerHTML.slice(0, 200));
    }
    return [...found];
}"""


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        pass


@pytest.fixture
def address(app: Flask) -> Iterator[str]:
    """Where the pages are served."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh browser at the form; in the end nothing may have been said on its console, nor asked of another host."""
    context = chromium.new_context(base_url=address, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith(address) else said.append(sent.url))
    page.goto("/login")
    yield page
    context.close()
    assert said == []


def enter(page: Page, path: str = "/") -> None:
    page.goto(path)
    page.get_by_label("Token").fill(ADMIN_SECRET)
    page.get_by_role("button", name="Sign in").click()


def test_a_person_signs_in_looks_around_and_signs_out(page, filled):
    enter(page)
    expect(page).to_have_title("Models · weight-registry")
    row = page.get_by_role("row").filter(has_text="yolo11n")
    expect(row).to_contain_text("since 2026-01-06 10:04 UTC by marie")
    page.get_by_role("link", name="vision/yolo11n").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("yolo11n")
    page.get_by_role("link", name="Checkpoints").click()
    expect(page.get_by_role("rowheader")).to_have_count(1)
    page.get_by_role("link", name="All").click()
    expect(page.get_by_role("rowheader")).to_have_count(7)
    page.get_by_role("rowheader").filter(has_text="production").get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Version 4")
    expect(page.get_by_text("pickle: can run code")).to_be_visible()
    page.get_by_role("link", name="vision/yolo11n:3", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Version 3")
    page.get_by_role("link", name="yolo11n", exact=True).click()
    page.get_by_role("link", name="History of production").click()
    expect(page.get_by_role("cell", name="beats 2 by 2.3 points")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Token")).to_be_visible()  # the page before is kept nowhere


def test_a_link_that_needed_a_token_leads_on_after_it(page, filled):
    enter(page, "/models/vision/yolo11n?kind=release")
    expect(page).to_have_url("/models/vision/yolo11n?kind=release")


def test_models_are_filtered_with_the_keyboard_alone(page, filled):
    page.keyboard.type(ADMIN_SECRET)  # the form's field has the focus
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    page.get_by_label("Namespace").focus()
    page.keyboard.type("text")
    page.keyboard.press("Enter")
    expect(page.get_by_role("rowheader")).to_have_count(2)
    expect(page.get_by_label("Namespace")).to_have_value("text")


def test_the_focus_follows_the_eye_and_starts_with_a_way_to_the_content(page, filled):
    enter(page)
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    passed = []
    for _ in range(8):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText.trim()"))
    assert passed == ["To the content", "weight-registry", "Models", "API", "Sign out", "", "Filter", "default/router"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_stands_out(page, filled, scheme):
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate(PALE) == []
    enter(page)
    for path in (*PAGES, "/?namespace=nowhere"):
        page.goto(path)
        assert page.evaluate(UNNAMED) == [], path
        assert page.evaluate(PALE) == [], path
        assert page.locator("h1").count() == 1, path
        assert page.locator("html[lang=en]").count() == 1
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(heading => +heading.tagName[1])")
        assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False)), (path, levels)


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_no_page_is_wider_than_the_screen(page, filled, width):
    page.set_viewport_size({"width": width, "height": 800})
    enter(page)
    for path in (*PAGES, "/docs"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_markup_that_people_wrote_stays_text(page, filled, database, admin):
    from registry.services import models
    from tests.support.factories import make_model
    from tests.support.world import T0

    markup = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    with database.transaction() as session:
        models.update(session, admin, make_model(session, "open/markup"), now=T0, description=markup, objective=None)
    enter(page, "/models/open/markup")
    expect(page.get_by_text(markup)).to_be_visible()
    expect(page).to_have_title("open/markup · weight-registry")
