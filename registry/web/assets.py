"""`/static`: the one style sheet, also of the API's human page."""

import hashlib
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, request

from registry.request import public

bp = Blueprint("assets", __name__)


@bp.get("/static/registry.css")
@public
def style() -> Response:
    """Asked for anew with each page, and answered 304 while it is the same."""
    text, etag = _style()
    response = Response(text, mimetype="text/css")
    response.headers["Cache-Control"] = "public, no-cache"
    response.set_etag(etag)
    return response.make_conditional(request)


@cache
def _style() -> tuple[bytes, str]:
    text = Path(__file__).with_name("static").joinpath("registry.css").read_bytes()
    return text, hashlib.sha256(text).hexdigest()[:32]
