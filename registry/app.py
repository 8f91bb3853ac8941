"""The composition root: everything the application is made of is made here, nothing at import."""

import logging
import sys
import time
import uuid
from typing import Any

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, IntegerConverter

from registry import api, web
from registry.api.problems import http_problem, internal_problem, problem
from registry.config import Config
from registry.db.session import Database
from registry.domain.errors import RegistryError
from registry.domain.names import FORBIDDEN_PARTS, PART, ModelName, parse_model
from registry.domain.references import MAX_NUMBER
from registry.request import BODY_LIMIT, Parts
from registry.services.chains import Heads
from registry.storage.s3 import Store, StoreConfig

log = structlog.get_logger()

_PART = rf"(?!(?:{'|'.join(sorted(FORBIDDEN_PARTS))})(?:/|$)){PART.pattern}"


class ModelConverter(BaseConverter):
    """One or two valid parts of a model's name; a view gets a `ModelName`, links carry `namespace/name`."""

    regex = rf"{_PART}(?:/{_PART})?"
    part_isolating = False

    def to_python(self, value: str) -> ModelName:
        """Read the name; the pattern has already refused what is none."""
        return parse_model(value)

    def to_url(self, value: Any) -> str:
        """Write the canonical name."""
        return str(value)


class PartConverter(BaseConverter):
    """A namespace's name."""

    regex = _PART


class NumberConverter(IntegerConverter):
    """A whole number that every database can compare. Nothing has one beyond `MAX_NUMBER`, so larger ones mean that."""

    def to_python(self, value: str) -> int:
        """Read the number."""
        return MAX_NUMBER if len(value) > 10 else min(int(value), MAX_NUMBER)


def create_app(config: Config | None = None) -> Flask:
    """Build the WSGI application: the API, the pages, health. Opens no connection yet."""
    settings = config or Config.from_environment()
    app = Flask("registry", static_folder=None)
    database = Database(settings.database_url)
    app.extensions["registry"] = Parts(settings, database, store_of(settings))
    app.extensions["registry.heads"] = Heads(database)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False
    app.url_map.converters |= {"model": ModelConverter, "part": PartConverter, "int": NumberConverter}
    configure_logging()
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(RegistryError, _on_registry_error)
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_unexpected)
    api.register(app)
    web.register(app)
    return app


def store_of(config: Config) -> Store:
    """The object store the settings name."""
    return Store(
        StoreConfig(
            bucket=config.s3_bucket,
            endpoint_url=config.s3_endpoint_url or None,
            public_endpoint_url=config.s3_public_endpoint_url or None,
            region=config.s3_region,
            access_key=config.s3_access_key or None,
            secret_key=config.s3_secret_key or None,
            session_token=config.s3_session_token or None,
            ca_bundle=str(config.s3_ca_bundle) if config.s3_ca_bundle.name else None,
            local_path=config.s3_local_path if config.s3_local_path.name else None,
        )
    )


def configure_logging() -> None:
    """JSON lines on stderr. Nothing logs headers, bodies, tokens or presigned URLs."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _begin() -> None:
    g.request_id, g.began = uuid.uuid4().hex, time.perf_counter()


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.get("request_id", "")
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.status_code >= 500:
        log.error(
            "request failed",
            method=request.method,
            path=request.path,
            status=response.status_code,
            id=g.get("request_id"),
        )
    return response


def _is_page() -> bool:
    return not request.path.startswith("/api/")


def _on_registry_error(error: RegistryError) -> Response:
    return web.error_page(error) if _is_page() else problem(error)


def _on_http_error(error: HTTPException) -> Response:
    return web.http_error_page(error) if _is_page() else http_problem(error)


def _on_unexpected(error: Exception) -> Response:
    log.error("unexpected error", id=g.get("request_id"), path=request.path, exc_info=error)
    return web.unexpected_page() if _is_page() else internal_problem()
