"""Browsers: one without a screen for the rules, and the team's registry to look at."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from registry.services.actors import Actor
from tests.web import scene


@pytest.fixture
def filled(database: Any, make_actor: Callable[..., Actor]) -> Actor:
    """A registry with models in it, filled by the administrator who is given."""
    marie = make_actor("marie", is_admin=True)
    with database.transaction() as session:
        scene.fill(session, marie)
    return marie


@pytest.fixture
def sign_in(app: Flask, make_token: Callable[..., str]) -> Callable[..., FlaskClient]:
    """`sign_in("ana", "reader", "vision")` gives the browser of somebody who signed in with a token of theirs."""

    def begin(*who: Any, **more: Any) -> FlaskClient:
        browser = app.test_client()
        answer = login(browser, make_token(*who, **more))
        assert answer.status_code == 303, answer.text
        return browser

    return begin


def login(browser: FlaskClient, token: str, *, following: str = "", **headers: str) -> TestResponse:
    """Send the form as its own page does."""
    sent = {"Sec-Fetch-Site": "same-origin"} | headers
    return browser.post("/login", data={"token": token, "next": following}, headers=sent)
