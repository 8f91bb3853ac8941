import re
from pathlib import Path

import pytest

from tests.support import ROOT

PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*.md"),
        *(ROOT / "docker").glob("*.md"),
        *(ROOT / "requirements").glob("*.md"),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
DECISIONS = sorted(path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md") if not path.name.startswith("0000"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_link_leads_somewhere(page):
    broken = []
    for found in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = found["target"].partition("#")
        if "://" in found["target"]:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(found["target"])
    assert broken == []


def test_every_page_can_be_found_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_every_decision_has_one_row_and_every_row_is_a_decision():
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[\d{4}\]\(([^)]+)\)", index, re.MULTILINE) == DECISIONS


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_is_listed_as_it_says_of_itself(name):
    text = (ROOT / "docs" / "adr" / name).read_text(encoding="utf-8")
    title = re.match(r"# (?P<number>\d{4}): (?P<title>.+)\n", text)
    status = re.search(r"^Status: (\w+)", text, re.MULTILINE)
    assert title is not None
    assert status is not None
    row = f"| [{title['number']}]({name}) | {title['title']} | {status[1]} |"
    assert row in (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")


def test_numbers_of_decisions_are_used_once():
    numbers = [name.partition("-")[0] for name in DECISIONS]
    assert len(numbers) == len(set(numbers))
