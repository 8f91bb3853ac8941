"""Pages to come."""

from flask import Blueprint

bp = Blueprint("signing_in", __name__)
