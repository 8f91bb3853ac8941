import pytest
from sqlalchemy import select

from registry.db.tables import Health, Model, Version
from tests.support.world import T0
from tests.web.scene import DETECTOR

FINDINGS = {"nan": ["model.22.<b>bias"]}


@pytest.fixture
def page(database, filled, sign_in):
    def show(state="done", **columns):
        """The page of the detector's fourth version with this health."""
        defaults = {"tensor_count": 3, "parameter_count": 2_616_248, "parameters_by_dtype": {"F32": 2_616_248}}
        with database.transaction() as session:
            version = session.scalars(
                select(Version).join(Version.model).where(Model.name == "yolo11n", Version.number == 4)
            ).first()
            assert version is not None
            version.health = state
            if state == "done":
                row = {"version_id": version.id, "findings": {}, "computed_at": T0} | defaults | columns
                session.add(Health(**row))
        answer = sign_in("ana", "reader", "vision").get(f"/models/{DETECTOR}/versions/4")
        assert answer.status_code == 200, answer.text
        return answer.text

    return show


def test_a_healthy_version_shows_what_is_in_it(page):
    text = page(norm=12.5)
    assert "2,616,248" in text
    assert "3 tensors" in text
    assert "12.5" in text


def test_tensors_at_fault_are_named_and_escaped(page):
    text = page(nan_count=3, findings=FINDINGS)
    assert "There is NaN in" in text
    assert "model.22.&lt;b&gt;bias" in text


def test_damaged_bytes_have_no_numbers(page):
    assert "The numbers in damaged bytes say nothing." in page("failed")


def test_nothing_is_shown_before_a_worker_came(page):
    assert 'id="health"' not in page("pending")
