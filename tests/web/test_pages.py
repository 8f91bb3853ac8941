import html
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from registry.domain.names import parse_model
from registry.services import metrics, models, tags, versions
from registry.services.metrics import Measurement
from registry.web import formatting, ordering
from registry.web.pages import POLICY
from tests.support.factories import make_model, make_version, make_versions
from tests.support.world import T0
from tests.web import scene

SCRIPT = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
PAGES = (
    "/",
    "/models/vision/yolo11n",
    "/models/vision/yolo11n/versions/4",
    "/models/vision/yolo11n/stages/production",
)


def plain(response):
    """What a reader sees, in one line."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", response.text))
    return re.sub(r"\s+([,.] )", r"\1", " ".join(text.split()))


def listed(response):
    """The numbers of the rows of a list of versions."""
    return re.findall(r'<th scope="row">\s*<a class="version" href="[^"]+/(\d+)"', response.text)


def following(response):
    """Where the page says that its list goes on."""
    found = re.search(r'rel="next" href="([^"]+)"', response.text)
    return html.unescape(found[1]) if found else ""


def test_an_empty_registry_tells_how_to_push_the_first_weights(sign_in):
    page = sign_in("ana", "reader", "vision").get("/")
    assert page.status_code == 200
    assert "No models yet" in page.text
    assert "registry push my-model model.safetensors" in page.text


def test_the_first_page_tells_what_is_in_production_since_when_and_by_whom(filled, sign_in):
    text = plain(sign_in("ana", "reader", "vision").get("/"))
    assert "vision/ yolo11n" in text
    assert "Version 4 since 2026-01-06 10:04 UTC by marie" in text
    assert "Version 6 since 2026-01-07 23:04 UTC by marie" in text
    assert text.index("Production") < text.index("Staging")


def test_the_first_page_lists_only_what_one_may_read(filled, sign_in):
    page = sign_in("ana", "reader", "text").get("/")
    assert "minilm" in page.text
    assert "yolo11n" not in page.text


def test_models_are_filtered_by_namespace_in_any_spelling(filled, sign_in):
    browser = sign_in("root", is_admin=True)
    page = browser.get("/?namespace=TEXT")
    assert "minilm" in page.text
    assert "yolo11n" not in page.text
    assert "No models in nowhere" in plain(browser.get("/?namespace=nowhere"))
    assert browser.get("/", query_string={"namespace": SCRIPT}).status_code == 422
    assert browser.get("/?namespace=a%00b").status_code == 422


def test_models_are_paged_and_the_next_page_keeps_the_filter(database, sign_in, admin):
    with database.transaction() as session:
        for number in range(5):
            make_model(session, f"team/model-{number}")
        make_model(session, "other/unwanted")
    browser = sign_in("root", is_admin=True)
    address, seen = "/?namespace=team&limit=2", []
    while address:
        page = browser.get(address)
        seen += re.findall(r'href="/models/(team/model-\d)"', page.text)
        address = following(page)
    assert seen == [f"team/model-{number}" for number in range(5)]
    assert "unwanted" not in page.text
    assert '<a href="/?namespace=team&amp;limit=2">First page</a>' in page.text


def test_a_model_shows_its_stages_its_objective_and_its_tags(filled, sign_in):
    text = plain(sign_in("ana", "reader", "vision").get("/models/vision/yolo11n"))
    assert "Production Version 4 for" in text
    assert "since 2026-01-06 10:04 UTC by marie" in text
    assert "mAP50-95 highest is best, on coco-val2017, split val" in text
    assert "licence AGPL-3.0" in text
    assert "7 versions published" in text


def test_versions_come_newest_first_with_metrics_parents_and_size(filled, sign_in):
    page = sign_in("ana", "reader", "vision").get("/models/vision/yolo11n")
    assert listed(page) == ["7", "6", "5", "4", "3", "2", "1"]
    columns = re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', page.text)
    assert columns == ["Version", "Kind", "mAP50-95", "latency_ms", "mAP50", "Parents", "Size", "Integrity", "Created"]
    text = plain(page)
    assert "4 production Longer schedule" in text
    assert "7 edge for the edge boxes release onnx-int8" in text
    assert "quantize vision/yolo11n:4 2.8 MiB verified" in text
    assert "finetune https://example.org/yolo11n.pt" in text
    assert 'href="https://example.org' not in page.text


def test_versions_are_filtered_by_kind_and_the_next_page_keeps_it(filled, sign_in):
    browser = sign_in("ana", "reader", "vision")
    page = browser.get("/models/vision/yolo11n?kind=checkpoint")
    assert listed(page) == ["5"]
    assert 'kind=checkpoint" aria-current="page"' in page.text
    older = browser.get(following(browser.get("/models/vision/yolo11n?kind=release&limit=4")))
    assert listed(older) == ["2", "1"]
    assert browser.get("/models/vision/yolo11n?kind=nonsense").status_code == 422


def test_links_carry_nothing_that_the_address_was_given_beside_what_the_page_takes(filled, sign_in):
    page = sign_in("ana", "reader", "vision").get("/models/vision/yolo11n?limit=1&_scheme=javascript&_external=1&x=y")
    assert following(page).startswith("/models/vision/yolo11n?limit=1&cursor=")
    assert "javascript" not in page.text


def test_a_version_shows_its_files_numbers_parents_and_children(filled, sign_in):
    page = sign_in("ana", "reader", "vision").get("/models/vision/yolo11n/versions/4")
    text = plain(page)
    assert "best.safetensors safetensors" in text
    assert "optimizer.pt pytorch pickle: can run code" in text
    assert "mAP50-95 objective 0.412 coco-val2017 split val" in text
    assert "Made from finetune vision/yolo11n:3" in text
    assert "Made into finetune vision/yolo11n:5 quantize vision/yolo11n:7" in text
    assert "optimizer AdamW" in text
    assert "person, bicycle, car, traffic light" in text
    assert "registry pull vision/yolo11n:4" in text
    assert 'registry.connect("http://localhost")' in text
    assert re.search(r"sha256:[0-9a-f]{64}", text)


def test_a_version_in_the_trash_says_so_and_how_to_take_it_out(filled, database, sign_in):
    with database.transaction() as session:
        model = models.find(session, filled, parse_model("default/router"), scene.READ)
        version = versions.find(session, filled, models.full_name(model), 1, scene.READ)
        versions.trash(session, filled, version, now=T0)
    browser = sign_in("root", is_admin=True)
    text = plain(browser.get("/models/router/versions/1"))
    assert "in the trash since 2026-01-02 03:04 UTC, put there by marie" in text
    assert "registry restore default/router:1" in text
    assert "registry pull" not in text
    assert "registry push default/router" in plain(browser.get("/models/router"))


def test_a_stage_tells_who_put_what_there_when_and_why(filled, sign_in):
    browser = sign_in("ana", "reader", "vision")
    page = browser.get("/models/vision/yolo11n/stages/production?limit=2")
    text = plain(page)
    assert "has held version 4 for" in text
    assert re.search(r"3 promote 2 → to 4 2026-01-06 10:04 UTC \d+ days so far marie none beats 2 by 2.3 points", text)
    assert "better at night" in text
    assert "first" not in text
    assert "nothing → to 1 2026-01-02 08:04 UTC 1 day marie none first" in plain(browser.get(following(page)))


def test_a_stage_that_never_moved_and_one_that_was_emptied_say_so(filled, database, sign_in):
    browser = sign_in("root", is_admin=True)
    assert "never held a version" in plain(browser.get("/models/text/minilm-l6/stages/production"))
    with database.transaction() as session:
        model = models.find(session, filled, parse_model("text/minilm-l6"), scene.READ)
        scene.promote(session, filled, model, "staging", None, hour=100, why="withdrawn")
    assert "empty since 2026-01-06 07:04 UTC, by marie" in plain(browser.get("/models/text/minilm-l6/stages/staging"))
    assert "empty since" in plain(browser.get("/models/text/minilm-l6"))


def test_a_hidden_model_is_as_absent_as_one_that_never_was(database, sign_in, admin):
    with database.transaction() as session:
        scene.hide(session, "secret/weights")
    browser, request_id = sign_in("ana", "reader", "vision"), re.compile(r"<code>[0-9a-f]{32}</code>")
    for path in ("", "/versions/1", "/stages/production"):
        hidden, absent = browser.get(f"/models/secret/weights{path}"), browser.get(f"/models/secret/nothing{path}")
        assert hidden.status_code == absent.status_code == 404
        assert "MODEL_NOT_FOUND" in hidden.text
        as_absent = hidden.text.replace("secret/weights", "secret/nothing")
        assert request_id.sub("", as_absent) == request_id.sub("", absent.text)


def test_a_hidden_parent_or_child_keeps_its_relation_and_loses_its_name(database, sign_in, admin):
    with database.transaction() as session:
        hidden = scene.hide(session, "secret/weights")
        child = scene.publish(session, make_model(session, "open/child"), 10)
        scene.derive(session, child, hidden, "distill")
        scene.derive(session, scene.hide(session, "secret/more"), child, "prune")
    browser = sign_in("ana", "reader", "open")
    for path in ("/models/open/child", "/models/open/child/versions/1"):
        page = browser.get(path)
        assert "distill a version you may not read" in plain(page)
        assert "secret" not in page.text
    assert "prune a version you may not read" in plain(page)


ABSENT = (
    "/nothing", "/models/vision/yolo11n/versions/99", "/models/vision/yolo11n/versions/0",
    "/models/vision/yolo11n/versions/99999999999999999999", "/models/vision/yolo11n/stages/nothing",
    "/models/vision/yolo11n/stages/%3Cscript%3E", "/models/a/b/c", "/models/",
)  # fmt: skip


def test_what_is_not_there_is_a_page_that_says_so(filled, sign_in):
    browser = sign_in("ana", "reader", "vision")
    for path in ABSENT:
        page = browser.get(path)
        assert page.status_code == 404, path
        assert page.mimetype == "text/html"
        assert "<script>" not in page.text
        assert "<h1>There is no" in page.text or re.search("has no (version|stage)", page.text)


def test_a_bad_cursor_or_limit_is_refused_with_a_page(filled, sign_in):
    browser = sign_in("ana", "reader", "vision")
    for path in ("/", "/models/vision/yolo11n", "/models/vision/yolo11n/stages/production"):
        for query in ("cursor=nonsense", "cursor=W10=", "limit=0", "limit=x", "cursor=WyJhIl0="):
            page = browser.get(f"{path}?{query}")
            assert page.status_code == 422, (path, query)
            assert "INVALID_" in page.text


def test_nothing_that_people_wrote_becomes_markup(database, sign_in, admin):
    with database.transaction() as session:
        model = make_model(session, "open/markup")
        models.update(session, admin, model, now=T0, description=SCRIPT, objective=None)
        version = scene.publish(session, model, 10, "<script>.bin", message=SCRIPT, variant=SCRIPT[:200])
        version.params, version.class_names, version.run = {SCRIPT: SCRIPT, "deep": [SCRIPT]}, [SCRIPT], SCRIPT
        scene.derive(session, version, f"https://x.example/{SCRIPT}")
        scene.derive(session, version, "javascript:alert(1)", "merge")
        tags.set_on_model(session, admin, model, {"owner": SCRIPT}, now=T0)
        tags.set_on_version(session, admin, version, {"owner": SCRIPT}, now=T0)
        label = "<script>alert(1)</script>"
        measured = Measurement(label, 1.5, dataset="d", evaluator=label, slice=label)
        metrics.record(session, admin, version, [measured, Measurement(label, 2.5)], now=T0)
        scene.promote(session, admin, model, "production", 1, hour=1, why=SCRIPT)
    browser = sign_in("root", is_admin=True)
    pages = ["/", "/models/open/markup", "/models/open/markup/versions/1", "/models/open/markup/stages/production"]
    for path in pages:
        page = browser.get(path)
        assert page.status_code == 200
        assert "alert(" in page.text
        assert "<script" not in page.text.lower()
        assert "<img" not in page.text.lower()
        assert 'href="javascript:' not in page.text
        assert not re.search(r'<[^>]*=(?:"[^"]*"|\'[^\']*\')?[^>]*\sonerror=', page.text)


def test_every_page_allows_no_script_no_frame_and_no_copy(filled, sign_in):
    browser = sign_in("ana", "reader", "vision")
    for path in (*PAGES, "/login", "/nothing", "/docs"):
        page = browser.get(path)
        assert page.headers["Content-Security-Policy"] == POLICY
        assert page.headers["Referrer-Policy"] == "same-origin"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Cache-Control"] == "private, no-store"
        assert "<script" not in page.text.lower()
        assert " style=" not in page.text
        assert not re.search(r'(?:href|src)="(?:https?:)?//', page.text)


def test_the_style_sheet_is_open_to_all_and_not_sent_twice(app):
    client = app.test_client()
    first = client.get("/static/registry.css")
    assert first.mimetype == "text/css"
    assert "prefers-color-scheme: dark" in first.text
    assert "url(" not in first.text
    assert client.get("/static/registry.css", headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert client.get("/favicon.ico").mimetype == "image/svg+xml"


def test_every_page_says_whom_it_is_for(app):
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("web."):
            assert app.view_functions[rule.endpoint].permission, rule.endpoint


@pytest.mark.parametrize("path", PAGES[:3])
def test_a_page_asks_the_database_as_often_for_many_as_for_few(database, app, sign_in, admin, path):
    browser = sign_in("root", is_admin=True)
    browser.get("/")  # the first use of a token is noted, with statements of its own
    asked: list[str] = []
    engine = app.extensions["registry"].database.engine

    def count():
        asked.clear()
        page = browser.get(path + "?limit=100")
        assert page.status_code == 200
        return len(asked)

    def more(session, number):
        model = make_model(session, "vision/yolo11n")
        parent = make_version(session, make_model(session, f"vision/parent-{number}"))
        for version in make_versions(session, model, 6):
            scene.derive(session, version, parent)
            scene.add_artifact(session, version, "a.bin", 1)
            metrics.record(session, admin, version, [Measurement("loss", 0.1)], now=T0)
        scene.promote(session, admin, model, "production", version.number, hour=number, why="")

    event.listen(engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    with database.transaction() as session:
        more(session, 0)
    few = count()
    with database.transaction() as session:
        for number in range(1, 6):
            more(session, number)
    assert count() == few


def test_sizes_read_in_binary_units():
    shown = [formatting.size(value) for value in (0, 1, 1023, 1024, 90_868_376, 1024**2 * 1000, 5 * 1024**4)]
    assert shown == ["0 B", "1 B", "1023 B", "1.0 KiB", "86.7 MiB", "1.0 GiB", "5.0 TiB"]


def test_metrics_read_with_six_digits():
    shown = [formatting.metric(value) for value in (0.0, 12_345.0, 0.123456789, 1e-9, 1e30, float("nan"))]
    assert shown == ["0", "12,345", "0.123457", "1e-09", "1e+30", "nan"]


def test_an_age_reads_in_its_largest_unit():
    now = datetime(2026, 1, 2, tzinfo=UTC)
    ages = [formatting.age(now - timedelta(seconds=seconds), now) for seconds in (-5, 59, 60, 7_199, 86_400 * 400)]
    assert ages == ["less than a minute", "less than a minute", "1 minute", "1 hour", "400 days"]


def test_the_objective_is_the_first_metric_and_the_commonest_follow():
    measured = {1: {"a": 1.0, "b": 1.0, "z": 1.0}, 2: {"b": 2.0, "c": 2.0}}
    assert ordering.metric_names(measured, first="z", limit=3) == ["z", "b", "a"]
    assert ordering.metric_names({}, first="z", limit=3) == []
