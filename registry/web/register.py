"""Mounts the pages on the application."""

from flask import Blueprint, Flask

from registry.web import assets, diffs, models, promoting, promotions, signing_in, stages, versions
from registry.web.pages import secured


def register(app: Flask) -> None:
    """Mount every page below `/`, with headers that hold for each."""
    pages = Blueprint("web", "registry.web", template_folder="templates")
    for part in (assets, signing_in, models, versions, diffs, stages, promotions, promoting):
        pages.register_blueprint(part.bp)
    app.register_blueprint(pages)
    app.after_request(secured)
