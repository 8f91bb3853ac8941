import pytest

from docs.build import HERE, PARTS, rendered


@pytest.mark.parametrize("page", PARTS)
def test_a_page_says_what_the_code_says(page):
    assert (HERE / page).read_text(encoding="utf-8") == rendered(page), (
        f"docs/{page} is behind the code: write it anew with `make docs`"
    )


@pytest.mark.parametrize("page", PARTS)
def test_a_page_has_each_of_its_parts_once(page):
    text = (HERE / page).read_text(encoding="utf-8")
    assert {name: text.count(f"<!-- {name}: ") for name in PARTS[page]} == dict.fromkeys(PARTS[page], 1)
