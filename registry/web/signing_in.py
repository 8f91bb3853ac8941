"""`/login` and `/logout`: a token becomes a cookie, and the cookie ends."""

from http import HTTPStatus

from flask import Blueprint, Response, request, url_for

from registry.db.session import now
from registry.domain.errors import UnauthenticatedError
from registry.request import public, transaction
from registry.services import sessions
from registry.web import browser
from registry.web.pages import go, render

bp = Blueprint("signing_in", __name__)


@bp.get("/login")
@public
def show() -> Response:
    """The form."""
    return render("login.html", following=browser.local(request.args.get("next", "")), refusal="")


@bp.post("/login")
@public
def sign_in() -> Response:
    """A session for the pasted token; whatever session the browser had is over."""
    browser.check_own_form()
    following = browser.local(request.form.get("next", ""))
    try:
        with transaction(remember=False) as session:
            begun = sessions.sign_in(session, request.form.get("token", "").strip(), now=now(session))
            if held := browser.held_secret():
                sessions.sign_out(session, held)
    except UnauthenticatedError as refusal:
        return render("login.html", HTTPStatus.UNAUTHORIZED, following=following, refusal=str(refusal))
    return browser.remember(go(following), begun)


@bp.post("/logout")
@public
def sign_out() -> Response:
    """The session is over, here and in the browser."""
    browser.check_own_form()
    if held := browser.held_secret():
        with transaction(remember=False) as session:
            sessions.sign_out(session, held)
    return browser.forget(go(url_for("web.signing_in.show")))
