"""Tags: free annotations of versions and models, without behaviour."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Model, ModelTag, Version, VersionTag
from registry.domain.access import Permission
from registry.domain.audit import Action
from registry.domain.errors import ConflictError, NotFoundError
from registry.domain.names import check_tag, shown
from registry.services import audit, models, policies, versions
from registry.services.actors import Actor

MAX_TAGS = 200
_EVENT_VALUE = 250  # characters of a value that an event repeats


class TooManyTagsError(ConflictError):
    """The version or model has as many tags as one may have."""

    code = "TOO_MANY_TAGS"
    remedy = f"Remove tags that are not needed: at most {MAX_TAGS} fit on one version or model."


class TagNotFoundError(NotFoundError):
    """The version or model has no such tag."""

    code = "TAG_NOT_FOUND"
    remedy = "See the tags there are with 'registry show REF'."


def of_models(session: Session, model_ids: Sequence[int]) -> dict[int, dict[str, str]]:
    """The tags of some models, by model id: one query, however many models."""
    found: dict[int, dict[str, str]] = {}
    query = select(ModelTag).where(ModelTag.model_id.in_(model_ids)).order_by(ModelTag.key)
    for tag in session.scalars(query) if model_ids else ():
        found.setdefault(tag.model_id, {})[tag.key] = tag.value
    return found


def set_on_version(session: Session, actor: Actor, version: Version, tags: Mapping[str, str], *, now: datetime) -> None:
    """Set tags of a ready version, leaving its others. Setting what is set changes nothing.

    Raises InvalidTagError, TooManyTagsError, VersionTrashedError, VersionPurgedError or PermissionDeniedError.
    """
    name = models.full_name(version.model)
    actor.check(Permission.TAG_WRITE, name)
    _check(tags)
    versions.live(version)
    models.lock(session, version.model)
    query = select(VersionTag).where(VersionTag.version_id == version.id)
    known = {tag.key: tag for tag in session.scalars(query.execution_options(populate_existing=True))}
    changed = _changes({key: tag.value for key, tag in known.items()}, tags, versions.name_of(version))
    for key, value in changed.items():
        if key in known:
            known[key].value = value
        else:
            session.add(VersionTag(version_id=version.id, key=key, value=value))
    if changed:
        subject, detail = versions.name_of(version), {"tags": _bounded(changed)}
        policies.evidence_changed(session, version)
        audit.record(session, actor, Action.VERSION_TAG, subject, detail, chain=name.namespace, now=now)


def set_on_model(session: Session, actor: Actor, model: Model, tags: Mapping[str, str], *, now: datetime) -> None:
    """Set tags of a model, leaving its others. Setting what is set changes nothing.

    Raises InvalidTagError, TooManyTagsError or PermissionDeniedError.
    """
    name = models.full_name(model)
    actor.check(Permission.TAG_WRITE, name)
    _check(tags)
    models.lock(session, model)
    query = select(ModelTag).where(ModelTag.model_id == model.id)
    known = {tag.key: tag for tag in session.scalars(query.execution_options(populate_existing=True))}
    changed = _changes({key: tag.value for key, tag in known.items()}, tags, str(name))
    for key, value in changed.items():
        if key in known:
            known[key].value = value
        else:
            session.add(ModelTag(model_id=model.id, key=key, value=value))
    if changed:
        detail = {"tags": _bounded(changed)}
        audit.record(session, actor, Action.MODEL_TAG, str(name), detail, chain=name.namespace, now=now)


def remove_from_version(session: Session, actor: Actor, version: Version, key: str, *, now: datetime) -> None:
    """Take a tag away. Raises TagNotFoundError, VersionTrashedError, VersionPurgedError or PermissionDeniedError."""
    name, subject = models.full_name(version.model), versions.name_of(version)
    actor.check(Permission.TAG_WRITE, name)
    check_tag(key, "")
    versions.live(version)
    models.lock(session, version.model)
    tag = session.get(VersionTag, (version.id, key), populate_existing=True)
    if tag is None:
        raise _missing(subject, key)
    session.delete(tag)
    policies.evidence_changed(session, version)
    audit.record(session, actor, Action.VERSION_UNTAG, subject, {"key": key}, chain=name.namespace, now=now)


def remove_from_model(session: Session, actor: Actor, model: Model, key: str, *, now: datetime) -> None:
    """Take a tag away. Raises TagNotFoundError or PermissionDeniedError."""
    name = models.full_name(model)
    actor.check(Permission.TAG_WRITE, name)
    check_tag(key, "")
    models.lock(session, model)
    tag = session.get(ModelTag, (model.id, key), populate_existing=True)
    if tag is None:
        raise _missing(str(name), key)
    session.delete(tag)
    audit.record(session, actor, Action.MODEL_UNTAG, str(name), {"key": key}, chain=name.namespace, now=now)


def _check(tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        check_tag(key, value)


def _changes(known: Mapping[str, str], wanted: Mapping[str, str], subject: str) -> dict[str, str]:
    if len(known.keys() | wanted.keys()) > MAX_TAGS:
        raise TooManyTagsError(f"{subject} cannot have more than {MAX_TAGS} tags.", limit=MAX_TAGS)
    return {key: value for key, value in wanted.items() if known.get(key) != value}


def _bounded(tags: Mapping[str, str]) -> dict[str, str]:
    """An event tells what was set, but is no second home for long texts."""
    return {
        key: value if len(value) <= _EVENT_VALUE else value[: _EVENT_VALUE - 1] + "…" for key, value in tags.items()
    }


def _missing(subject: str, key: str) -> TagNotFoundError:
    return TagNotFoundError(f"{subject} has no tag {shown(key)}.", key=key)
