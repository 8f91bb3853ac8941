"""Pages to come."""

from flask import Blueprint

bp = Blueprint("stages", __name__)
