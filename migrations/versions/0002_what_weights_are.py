"""tensor digests, health, differences, whole files

Old code runs during the deploy: add first, move data, remove in a later revision.
Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_INSTANT = sa.DateTime(timezone=True)
_COUNTED = ("nan_count", "inf_count", "zero_count")
_MEASURED = ("minimum", "maximum", "norm")


def _digest(column: str, table: str) -> sa.CheckConstraint:
    form = f"length({column}) = 64 AND {column} = lower({column})"
    return sa.CheckConstraint(form, name=op.f(f"ck_{table}_{column}_form"))


def upgrade() -> None:
    with op.batch_alter_table("tensors") as tensors:
        for name in _COUNTED:
            tensors.add_column(sa.Column(name, _ID, nullable=True))
        for name in _MEASURED:
            tensors.add_column(sa.Column(name, sa.Double(), nullable=True))
        tensors.create_check_constraint(
            op.f("ck_tensors_sha256_form"), "length(sha256) = 64 AND sha256 = lower(sha256)"
        )
    op.create_table(
        "health",
        sa.Column("version_id", _ID, sa.ForeignKey("versions.id", name=op.f("fk_health_version_id")), nullable=False),
        sa.Column("tensor_count", _ID, nullable=False),
        sa.Column("parameter_count", _ID, nullable=False),
        sa.Column("parameters_by_dtype", _JSON, nullable=False),
        sa.Column("nan_count", _ID, nullable=False),
        sa.Column("inf_count", _ID, nullable=False),
        sa.Column("zero_tensor_count", _ID, nullable=False),
        sa.Column("norm", sa.Double(), nullable=True),
        sa.Column("parent_id", _ID, sa.ForeignKey("versions.id", name=op.f("fk_health_parent_id")), nullable=True),
        sa.Column("norm_drift", sa.Double(), nullable=True),
        sa.Column("worst_drift", sa.Double(), nullable=True),
        sa.Column("worst_tensor", sa.String(1024), nullable=True),
        sa.Column("findings", _JSON, nullable=False),
        sa.Column("computed_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_health")),
    )
    op.create_index(op.f("ix_health_parameter_count"), "health", ["parameter_count"])
    op.create_table(
        "tensor_diffs",
        sa.Column("a_sha256", sa.String(64), nullable=False),
        sa.Column("b_sha256", sa.String(64), nullable=False),
        sa.Column("a_dtype", sa.String(16), nullable=False),
        sa.Column("b_dtype", sa.String(16), nullable=False),
        sa.Column("element_count", _ID, nullable=False),
        sa.Column("equal_count", _ID, nullable=False),
        sa.Column("max_abs", sa.Double(), nullable=True),
        sa.Column("relative_l2", sa.Double(), nullable=True),
        sa.Column("cosine", sa.Double(), nullable=True),
        sa.Column("computed_at", _INSTANT, nullable=False),
        _digest("a_sha256", "tensor_diffs"),
        _digest("b_sha256", "tensor_diffs"),
        sa.PrimaryKeyConstraint("a_sha256", "b_sha256", "a_dtype", "b_dtype", name=op.f("pk_tensor_diffs")),
    )
    op.create_table(
        "whole_objects",
        sa.Column("id", _ID, nullable=False),
        sa.Column(
            "namespace_id",
            _ID,
            sa.ForeignKey("namespaces.id", name=op.f("fk_whole_objects_namespace_id")),
            nullable=False,
        ),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", _ID, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("condemned_at", _INSTANT, nullable=True),
        _digest("sha256", "whole_objects"),
        sa.CheckConstraint("state IN ('pending', 'live', 'condemned')", name=op.f("ck_whole_objects_state_known")),
        sa.CheckConstraint(
            "(state = 'condemned') = (condemned_at IS NOT NULL)", name=op.f("ck_whole_objects_condemned_whole")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_whole_objects")),
        sa.UniqueConstraint(
            "namespace_id", "sha256", "generation", name=op.f("uq_whole_objects_namespace_id_sha256_generation")
        ),
    )
    op.create_index(
        "uq_whole_objects_current",
        "whole_objects",
        ["namespace_id", "sha256"],
        unique=True,
        sqlite_where=sa.text("state <> 'condemned'"),
        postgresql_where=sa.text("state <> 'condemned'"),
    )
    op.create_index("ix_whole_objects_state_condemned_at", "whole_objects", ["state", "condemned_at"])


def downgrade() -> None:
    op.drop_table("whole_objects")
    op.drop_table("tensor_diffs")
    op.drop_table("health")
    with op.batch_alter_table("tensors") as tensors:
        tensors.drop_constraint(op.f("ck_tensors_sha256_form"), type_="check")
        for name in (*_COUNTED, *_MEASURED):
            tensors.drop_column(name)
