"""The page that shows what changed."""

import hashlib

import pytest
from sqlalchemy import insert, select

from registry.db.queue import runs
from registry.db.tables import Artifact, Tensor, TensorDiff
from registry.services.diffs import MEASURE
from tests.support.factories import make_model, make_version
from tests.support.world import T0
from tests.web import scene


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def add_tensors(session, version, tensors, path="model.safetensors"):
    """A file with tensors given by name as (content, dtype, shape)."""
    scene.add_artifact(session, version, path, 1 << 20, tensor_count=len(tensors))
    session.flush()
    artifact = session.scalars(select(Artifact.id).where(Artifact.version_id == version.id)).one()
    rows = [
        {
            "artifact_id": artifact, "position": position, "name": name, "dtype": dtype, "shape": shape,
            "offset": position << 16, "size": 1 << 16, "sha256": content and digest(content), "norm": 10.0,
        }
        for position, (name, (content, dtype, shape)) in enumerate(tensors.items())
    ]  # fmt: skip
    session.execute(insert(Tensor), rows)


@pytest.fixture
def compared(database, filled):
    """Two versions of a detector, and the distance of one tensor that changed."""
    with database.transaction() as session:
        model = make_model(session, "vision/detector")
        first, second = make_version(session, model), make_version(session, model)
        scene.derive(session, second, first)
        before = {f"model.{layer}.conv.weight": (f"{layer}", "F32", [64, 32, 3, 3]) for layer in range(23)}
        after = before | {
            "model.22.conv.weight": ("other", "F32", [64, 32, 3, 3]),
            "model.21.conv.weight": ("half", "BF16", [64, 32, 3, 3]),
            "model.20.conv.weight": ("20", "F32", [80, 32, 3, 3]),
            "model.23.conv.weight": ("new", "F32", [8]),
        }
        before |= {"model.9.old.weight": ("moved", "F32", [16])}
        after |= {"model.9.new.weight": ("moved", "F32", [16])}
        add_tensors(session, first, before)
        add_tensors(session, second, after)
        session.add(
            TensorDiff(
                a_sha256=digest("22"), b_sha256=digest("other"), a_dtype="F32", b_dtype="F32", element_count=100,
                equal_count=25, max_abs=0.125, relative_l2=0.0312, cosine=0.99951, computed_at=T0,
            )
        )  # fmt: skip
    return "/models/vision/detector/versions/1/diff/vision/detector:2"


def test_the_page_shows_verdict_modules_tensors_and_what_was_measured(sign_in, compared):
    page = sign_in("ana", "reader", "vision").get(compared)
    assert page.status_code == 200
    for text in ("Different", "model.22", "1 changed", "model.9.old.weight", "model.9.new.weight", "0.0312", "25.0 %"):
        assert text in page.text
    assert "64×32×3×3" in page.text
    assert "model.3.conv.weight" not in page.text
    identical = sign_in("ana", "reader", "vision").get(f"{compared}?class=identical&limit=5")
    assert "model.3.conv.weight" in identical.text
    assert "class=identical&amp;limit=5&amp;cursor=" in identical.text


def test_a_version_leads_to_what_changed_since_its_parent(sign_in, compared):
    page = sign_in("ana", "reader", "vision").get("/models/vision/detector/versions/2")
    assert f'href="{compared}"' in page.text


def test_a_version_that_one_may_not_read_is_not_compared_with(database, sign_in, compared):
    with database.transaction() as session:
        scene.hide(session, "secret/m")
    browser = sign_in("ana", "reader", "vision")
    for ref in ("secret/m:1", "nowhere/m:1"):
        address = f"/models/vision/detector/versions/1/diff/{ref}"
        assert browser.get(address).status_code == 404
        assert browser.post(address, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 404
    assert browser.get("/models/vision/detector/versions/1/diff/vision/detector:x").status_code == 422


def test_a_form_of_another_site_has_nothing_measured(database, sign_in, compared):
    browser = sign_in("ana", "reader", "vision")
    assert browser.post(compared, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    with database.transaction(read_only=True) as session:
        ids = session.scalars(select(Artifact.version_id).where(Artifact.tensor_count > 0)).all()
        assert runs(session, MEASURE, keys=[f"{ids[0]}-{ids[1]}-1"]) == {}


@pytest.mark.parametrize("query", ["class=new", "limit=0", "cursor=x"])
def test_a_malformed_question_is_refused(sign_in, compared, query):
    assert sign_in("ana", "reader", "vision").get(f"{compared}?{query}").status_code == 422
