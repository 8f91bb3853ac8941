"""`/api/v1`: one blueprint a resource."""

from flask import Flask

from registry.api import (
    aliases,
    artifacts,
    consumers,
    diffs,
    events,
    health,
    health_of_versions,
    lineage,
    metrics,
    models,
    namespaces,
    openapi,
    policies,
    promotions,
    stages,
    storage,
    tags,
    tokens,
    uploads,
    users,
    versions,
    webhooks,
    whoami,
)

PREFIX = "/api/v1"

RESOURCES = (
    aliases,
    artifacts,
    consumers,
    diffs,
    events,
    health_of_versions,
    lineage,
    metrics,
    models,
    namespaces,
    openapi,
    policies,
    promotions,
    stages,
    storage,
    tags,
    tokens,
    uploads,
    users,
    versions,
    webhooks,
    whoami,
)


def register(app: Flask) -> None:
    """Mount every resource, and health beside them."""
    for resource in RESOURCES:
        app.register_blueprint(resource.bp, url_prefix=PREFIX, name=f"api.{resource.bp.name}")
    app.register_blueprint(health.bp)
    app.register_blueprint(openapi.human)
