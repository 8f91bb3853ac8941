"""The style sheet, also of the API's human page, and the sign of the site in a browser's tab."""

import hashlib
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, request

from registry.request import public

bp = Blueprint("assets", __name__)


@bp.get("/static/registry.css")
@public
def style() -> Response:
    """The one style sheet."""
    return _file("registry.css", "text/css")


@bp.get("/favicon.ico")
@public
def sign() -> Response:
    """Where browsers look for it on pages that do not say."""
    return _file("registry.svg", "image/svg+xml")


def _file(name: str, media_type: str) -> Response:
    """Asked about anew with each page, and answered 304 while it is the same."""
    data, etag = _read(name)
    response = Response(data, mimetype=media_type)
    response.headers["Cache-Control"] = "public, no-cache"
    response.set_etag(etag)
    response.make_conditional(request)
    return response


@cache
def _read(name: str) -> tuple[bytes, str]:
    data = Path(__file__).with_name("static").joinpath(name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:32]
