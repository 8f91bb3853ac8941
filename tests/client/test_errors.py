import logging

import pytest

import registry
from registry.client import _api
from registry.client._errors import from_problem
from registry.domain.references import InvalidReferenceError
from tests.support.faulty_api import hangs_up, problem, says, scripted

SECRET = "the-secret-that-must-not-show"
WHO = {"user": "ana", "admin": False, "token": "t", "actions": ["*"], "models": "*/*", "expires_at": None}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(_api, "_PATIENCE_UNSEEN", 0.1)
    monkeypatch.setattr(_api, "_PATIENCE", 0.2)


def refusal(*answers) -> registry.RegistryError:
    with (
        scripted(*answers) as server,
        registry.connect(server.url, SECRET) as client,
        pytest.raises(registry.RegistryError) as caught,
    ):
        client.whoami()
    assert SECRET not in str(caught.value) + repr(caught.value) + caught.value.remedy
    return caught.value


def test_an_error_this_client_knows_comes_back_as_its_class():
    error = refusal(problem(422, "INVALID_REFERENCE"))
    assert isinstance(error, InvalidReferenceError)
    assert (str(error), error.remedy, error.details) == ("It is so.", "Do something.", {"request_id": "r1"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, registry.UnauthenticatedError),
        (403, registry.ForbiddenError),
        (404, registry.NotFoundError),
        (409, registry.ConflictError),
        (410, registry.GoneError),
        (412, registry.PreconditionError),
        (413, registry.TooLargeError),
        (422, registry.InvalidError),
        (507, registry.ExhaustedError),
    ],
)
def test_an_error_this_client_does_not_know_is_its_kind_under_its_own_code(status, kind):
    error = refusal(problem(status, "INVENTED_LATER", holder=3))
    assert isinstance(error, kind)
    assert error.code == "INVENTED_LATER"
    assert error.details["holder"] == 3


def test_an_unknown_code_does_not_become_a_leaf_of_the_tree():
    from_problem(404, {"code": "INVENTED_LATER", "detail": ""})
    assert "INVENTED_LATER" not in registry.RegistryError.leaves()


def test_an_answer_that_is_no_registry_s_says_so():
    assert refusal(says(404, text="<html>no such page</html>")).code == "NOT_A_REGISTRY"
    assert refusal(says(200, text="<html>welcome</html>")).code == "NOT_A_REGISTRY"
    assert refusal(says(200, {"hello": "world"})).code == "NOT_A_REGISTRY"
    assert refusal(says(500, text="oops")).code == "NOT_A_REGISTRY"


def test_a_gateway_without_a_registry_behind_it_is_unreachable():
    assert refusal(says(502, text="Bad Gateway")).code == "SERVER_UNREACHABLE"


def test_a_server_that_is_not_there_is_unreachable(quick):
    with registry.connect("http://127.0.0.1:9", SECRET) as client, pytest.raises(registry.UnavailableError) as caught:
        client.whoami()
    assert caught.value.code == "SERVER_UNREACHABLE"
    assert "127.0.0.1:9" in str(caught.value)


def test_the_token_does_not_follow_a_redirect():
    with scripted(says(200, WHO)) as other:
        error = refusal(says(307, text="", Location=f"{other.url}/api/v1/whoami"))
        assert error.code == "SERVER_MOVED"
        assert other.url in str(error)
        assert other.asked == []


def test_a_server_that_asks_to_wait_is_asked_again():
    with scripted(problem(503, "DATABASE_DOWN"), problem(429, "BUSY"), says(200, WHO)) as server:
        with registry.connect(server.url, SECRET) as client:
            assert client.whoami().user == "ana"
        assert len(server.asked) == 3


def test_retry_after_is_honoured(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("registry.client._api.time.sleep", waits.append)
    with scripted(says(503, {"code": "X"}, Retry_After="7"), says(200, WHO)) as server:
        registry.connect(server.url, SECRET).whoami()
    assert waits == [7]


def test_a_server_that_stays_busy_is_given_up_with_its_own_error(monkeypatch):
    monkeypatch.setattr("registry.client._api.time.sleep", lambda _: None)
    assert refusal(problem(503, "STORE_UNREACHABLE")).code == "STORE_UNREACHABLE"


def test_a_connection_that_breaks_is_made_again(quick):
    with scripted(hangs_up, says(200, WHO)) as server:
        registry.connect(server.url, SECRET).whoami()
        assert len(server.asked) == 2


def test_a_change_is_sent_again_under_the_same_idempotency_key(quick):
    answer = {"name": "vision", "description": "", "created_at": "2026-01-01T00:00:00Z", "role": "admin"}
    with scripted(hangs_up, says(201, answer)) as server:
        client = registry.connect(server.url, SECRET)
        client.create_namespace("vision")
        client.create_namespace("vision")
    keys = [asked.headers["idempotency-key"] for asked in server.asked]
    assert keys[0] == keys[1] != keys[2]
    assert server.asked[0].body == server.asked[1].body


def test_the_token_is_sent_and_appears_nowhere_else(caplog):
    caplog.set_level(logging.DEBUG)
    with scripted(says(200, WHO)) as server, registry.connect(server.url, SECRET) as client:
        client.whoami()
        assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"
        assert SECRET not in repr(client) + repr(vars(client)) + caplog.text


@pytest.mark.parametrize(
    "url", ["", "registry", "ftp://host", "http://", "http://u:p@host", "http://host:x", "http://h?a"]
)
def test_what_is_no_address_is_refused(url, monkeypatch):
    with pytest.raises(registry.LocalError) as caught:
        registry.Client(url, "")
    assert caught.value.code == "SERVER_URL_INVALID"
    assert "u:p" not in str(caught.value)


def test_a_token_that_cannot_be_in_a_header_is_refused():
    with pytest.raises(registry.UnauthenticatedError):
        registry.Client("http://127.0.0.1:9", "a\r\nX-Admin: 1")
