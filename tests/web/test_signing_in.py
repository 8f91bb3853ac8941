from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from registry.config import Config
from registry.db.tables import Token, WebSession
from registry.request import Parts
from registry.services import accounts
from registry.web import browser
from tests.support.world import ADMIN_SECRET, T0
from tests.web.conftest import login


def sessions(database):
    with database.transaction(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(WebSession))


def cookie(response):
    return response.headers["Set-Cookie"]


def test_whoever_is_not_signed_in_is_sent_to_sign_in_and_comes_back(app):
    client = app.test_client()
    asked = client.get("/models/vision/yolo11n?kind=release")
    assert asked.status_code == 303
    form = client.get(asked.location)
    assert form.status_code == 200
    assert 'value="/models/vision/yolo11n?kind=release"' in form.text
    assert login(client, ADMIN_SECRET, following="/models/vision/yolo11n?kind=release").location == (
        "/models/vision/yolo11n?kind=release"
    )


def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites(app):
    text = cookie(login(app.test_client(), ADMIN_SECRET))
    assert "HttpOnly" in text
    assert "SameSite=Lax" in text
    assert "Path=/" in text
    assert "Domain" not in text
    assert ADMIN_SECRET not in text


def test_a_cookie_travels_over_https_only_if_so_configured(app):
    parts: Parts = app.extensions["registry"]
    assert "Secure" not in cookie(login(app.test_client(), ADMIN_SECRET))
    config = Config(secure_cookies=True)
    app.extensions["registry"] = Parts(config, parts.database, parts.store)
    client = app.test_client()
    text = cookie(login(client, ADMIN_SECRET))
    assert "Secure" in text
    assert text.startswith("__Host-")
    assert client.get("/", base_url="https://localhost").status_code == 200
    app.extensions["registry"] = parts


def test_a_wrong_token_gets_the_form_again_with_one_sentence(app, database):
    for token in ("", "wr_nobody", "x" * 5_000, "\0", "<script>alert(1)</script>"):
        answer = login(app.test_client(), token, following="/models/a/b")
        assert answer.status_code == 401
        assert answer.text.count('role="alert"') == 1
        assert "The token is not valid." in answer.text
        assert 'value="/models/a/b"' in answer.text
        assert "<script>" not in answer.text
        assert "Set-Cookie" not in answer.headers
    assert sessions(database) == 0


@pytest.mark.parametrize(
    "target",
    [
        "//elsewhere.example", "https://elsewhere.example/", "/\\elsewhere.example", "\\\\elsewhere.example",
        "/\t/x.example", "/\n/x.example", "javascript:alert(1)", "elsewhere", " //x.example",
        "/a\r\nSet-Cookie: a=b", "",
    ],
)  # fmt: skip
def test_only_an_address_of_ours_is_gone_to(target):
    assert browser.local(target) == "/"


def test_nobody_is_sent_elsewhere_after_signing_in(app):
    assert login(app.test_client(), ADMIN_SECRET, following="//elsewhere.example").location == "/"
    assert 'value="/"' in app.test_client().get("/login?next=https://elsewhere.example").text


FOREIGN = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "http://elsewhere.example"},
    {"Origin": "http://localhost:81"},
    {"Origin": "null"},
)


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_a_form_of_another_site_is_refused_and_changes_nothing(app, database, path):
    client = app.test_client()
    login(client, ADMIN_SECRET)
    for headers in FOREIGN:
        answer = client.post(path, data={"token": ADMIN_SECRET}, headers=headers)
        assert answer.status_code == 403
        assert "FOREIGN_FORM" in answer.text
        assert "Set-Cookie" not in answer.headers
    assert sessions(database) == 1


def test_a_form_of_our_own_page_is_taken_where_the_browser_only_names_the_origin(app):
    answer = app.test_client().post("/login", data={"token": ADMIN_SECRET}, headers={"Origin": "http://localhost"})
    assert answer.status_code == 303


def test_signing_out_ends_the_session_and_takes_the_cookie_back(app, database):
    client = app.test_client()
    login(client, ADMIN_SECRET)
    held = client.get_cookie("weight_registry_session")
    assert client.get("/").status_code == 200
    answer = client.post("/logout", headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.location == "/login"
    assert client.get_cookie("weight_registry_session") is None
    assert sessions(database) == 0
    client.set_cookie("weight_registry_session", held.value)
    assert client.get("/").status_code == 303


def test_signing_in_again_ends_the_session_before(app, database):
    client = app.test_client()
    login(client, ADMIN_SECRET)
    login(client, ADMIN_SECRET)
    assert sessions(database) == 1


def test_leaving_without_having_come_is_no_error(app):
    assert app.test_client().post("/logout").location == "/login"


def test_a_link_cannot_sign_anybody_out(app):
    client = app.test_client()
    login(client, ADMIN_SECRET)
    assert client.get("/logout").status_code == 405
    assert client.get("/").status_code == 200


def test_a_session_ends_with_its_token(app, database, sign_in):
    client = sign_in("ana", "reader", "vision")
    assert client.get("/").status_code == 200
    with database.transaction() as session:
        user = accounts.find_user(session, "ana")
        session.execute(update(Token).where(Token.user_id == user.id).values(revoked_at=T0 + timedelta(hours=1)))
    answer = client.get("/")
    assert answer.status_code == 303
    assert client.get_cookie("weight_registry_session") is None


def test_looking_at_pages_counts_as_use_of_the_token(app, database, sign_in):
    sign_in("ana", "reader", "vision").get("/")
    with database.transaction(read_only=True) as session:
        user = accounts.find_user(session, "ana")
        assert session.scalars(select(Token.last_used_at).where(Token.user_id == user.id)).one() is not None


def test_a_cookie_opens_no_door_of_the_api(app):
    client = app.test_client()
    login(client, ADMIN_SECRET)
    assert client.get("/api/v1/models").status_code == 401


def test_a_token_in_a_header_opens_no_page(app):
    answer = app.test_client().get("/", headers={"Authorization": f"Bearer {ADMIN_SECRET}"})
    assert answer.status_code == 303
