"""Every table, in reading order: who, what, which bytes, where it points, what happened.

Constraints make the wrong state impossible where SQL can say it: a pointer is a composite foreign key to a version,
a segment has at most one live object, a stage's history has no two entries with one number.
"""

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy import (
    text as sql,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.base import (
    Base,
    Id,
    bigid,
    count,
    digest_check,
    document,
    documents,
    hex64,
    instant,
    one_of,
    short,
    text,
)


class User(Base):
    """A person or a machine account. Administrators may do everything, in every namespace."""

    __tablename__ = "users"
    id: Mapped[bigid]
    name: Mapped[short]
    folded: Mapped[short] = mapped_column(unique=True)
    is_admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[instant]
    disabled_at: Mapped[instant | None]


class Token(Base):
    """A bearer secret of a user. Only its sha256 is stored; `prefix` lets people recognise it."""

    __tablename__ = "tokens"
    id: Mapped[bigid]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[short]
    prefix: Mapped[short]
    sha256: Mapped[hex64] = mapped_column(unique=True)
    actions: Mapped[documents]
    models: Mapped[short] = mapped_column(default="*")
    created_at: Mapped[instant]
    expires_at: Mapped[instant | None]
    last_used_at: Mapped[instant | None]
    revoked_at: Mapped[instant | None]
    user: Mapped[User] = relationship(lazy="raise")
    __table_args__ = (digest_check("sha256"),)


class WebSession(Base):
    """A signed-in browser: the sha256 of its cookie, standing for one token and ending with it."""

    __tablename__ = "web_sessions"
    sha256: Mapped[hex64] = mapped_column(primary_key=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("tokens.id"), index=True)
    created_at: Mapped[instant]
    expires_at: Mapped[instant]
    __table_args__ = (digest_check("sha256"),)


class Namespace(Base):
    """Owns models, people's rights and stored bytes."""

    __tablename__ = "namespaces"
    id: Mapped[bigid]
    name: Mapped[short]
    folded: Mapped[short] = mapped_column(unique=True)
    description: Mapped[text] = mapped_column(default="")
    stages: Mapped[documents | None]
    """Names of its models' stages in the order a version climbs; null for those that are configured."""
    created_at: Mapped[instant]


class Grant(Base):
    """A user's role in a namespace."""

    __tablename__ = "grants"
    namespace_id: Mapped[int] = mapped_column(ForeignKey("namespaces.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(16))
    __table_args__ = (one_of("role", "reader", "writer", "promoter", "admin"),)


class Model(Base):
    """A named line of versions. `last_version` only grows: a number is never used twice."""

    __tablename__ = "models"
    id: Mapped[bigid]
    namespace_id: Mapped[int] = mapped_column(ForeignKey("namespaces.id"))
    name: Mapped[short]
    folded: Mapped[short]
    description: Mapped[text] = mapped_column(default="")
    last_version: Mapped[count]
    objective_metric: Mapped[short | None]
    objective_direction: Mapped[str | None] = mapped_column(String(3))
    objective_dataset: Mapped[short | None]
    objective_split: Mapped[short | None]
    stages: Mapped[documents | None]
    """The same for this model alone; null for its namespace's."""
    created_by: Mapped[short]
    created_at: Mapped[instant]
    deleted_at: Mapped[instant | None]
    namespace: Mapped[Namespace] = relationship(lazy="raise")
    __table_args__ = (
        UniqueConstraint("namespace_id", "folded"),
        CheckConstraint("(objective_metric IS NULL) = (objective_direction IS NULL)", name="objective_whole"),
        CheckConstraint("objective_direction IN ('max', 'min')", name="objective_direction_known"),
        CheckConstraint("last_version >= 0", name="last_version_counts"),
    )


class Version(Base):
    """An immutable, numbered publication of a model. Only states, tags and metrics change after it is published."""

    __tablename__ = "versions"
    id: Mapped[bigid]
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    digest: Mapped[hex64]
    """Manifest digest: the identity of the content."""
    push_key: Mapped[hex64]
    """Content, run, parents, parameters, kind and variant in one digest: what makes a push a repetition."""
    kind: Mapped[str] = mapped_column(String(16))
    variant: Mapped[short | None]
    state: Mapped[str] = mapped_column(String(16), default="ready")
    integrity: Mapped[str] = mapped_column(String(16), default="unverified")
    health: Mapped[str] = mapped_column(String(16), default="pending")
    is_pinned: Mapped[bool] = mapped_column(default=False)
    message: Mapped[text] = mapped_column(default="")
    size: Mapped[count]
    params: Mapped[document]
    class_names: Mapped[documents]
    run: Mapped[short | None]
    created_by: Mapped[short]
    created_at: Mapped[instant]
    trashed_at: Mapped[instant | None]
    trashed_by: Mapped[short | None]
    model: Mapped[Model] = relationship(lazy="raise")
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        Index("ix_versions_model_id_push_key", "model_id", "push_key"),
        Index("ix_versions_model_id_digest", "model_id", "digest", "number"),
        Index("ix_versions_latest", "model_id", "state", "kind", "variant", "number"),
        digest_check("digest"),
        digest_check("push_key"),
        one_of("kind", "release", "checkpoint"),
        one_of("state", "ready", "trashed", "purged"),
        one_of("integrity", "unverified", "verified", "damaged"),
        one_of("health", "pending", "done", "failed"),
        CheckConstraint("number >= 1", name="number_counts"),
        CheckConstraint("(state = 'trashed') = (trashed_at IS NOT NULL) OR state = 'purged'", name="trash_whole"),
    )


class Artifact(Base):
    """One file of a version, with what its header says."""

    __tablename__ = "artifacts"
    id: Mapped[bigid]
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    path: Mapped[str] = mapped_column(String(1024))
    size: Mapped[count]
    sha256: Mapped[hex64] = mapped_column(index=True)
    media_type: Mapped[short]
    format: Mapped[str] = mapped_column(String(32))
    is_pickle: Mapped[bool] = mapped_column(default=False)
    header_size: Mapped[count]
    tensor_count: Mapped[count]
    segment_count: Mapped[count]
    header_metadata: Mapped[document]
    __table_args__ = (UniqueConstraint("version_id", "path"), digest_check("sha256"))


class Tensor(Base):
    """A named array inside an artifact: where its bytes are. `offset` and `size` are in bytes of the artifact."""

    __tablename__ = "tensors"
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(1024))
    dtype: Mapped[str] = mapped_column(String(16))
    shape: Mapped[documents]
    offset: Mapped[count]
    size: Mapped[count]
    sha256: Mapped[hex64 | None]
    """Digest of the array's bytes; this and what follows is null until a worker has read them."""
    nan_count: Mapped[int | None] = mapped_column(Id)
    inf_count: Mapped[int | None] = mapped_column(Id)
    zero_count: Mapped[int | None] = mapped_column(Id)
    minimum: Mapped[float | None]
    """Of the finite elements, as is the maximum, and the norm: the root of the sum of their squares."""
    maximum: Mapped[float | None]
    norm: Mapped[float | None]
    __table_args__ = (digest_check("sha256"),)


class Health(Base):
    """What a worker found when it read every element of a version; there once `versions.health` is `done`."""

    __tablename__ = "health"
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    tensor_count: Mapped[count]
    parameter_count: Mapped[count] = mapped_column(index=True)
    parameters_by_dtype: Mapped[document]
    nan_count: Mapped[count]
    inf_count: Mapped[count]
    zero_tensor_count: Mapped[count]
    norm: Mapped[float | None]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    """The version that the norms were compared with."""
    norm_drift: Mapped[float | None]
    """Relative change of the whole norm against the parent."""
    worst_drift: Mapped[float | None]
    worst_tensor: Mapped[str | None] = mapped_column(String(1024))
    findings: Mapped[document]
    """Names of tensors at fault by kind of fault, the first of each."""
    computed_at: Mapped[instant]


class TensorDiff(Base):
    """How far apart two arrays are that have the same number of elements: a fact about bytes, true for ever."""

    __tablename__ = "tensor_diffs"
    a_sha256: Mapped[hex64] = mapped_column(primary_key=True)
    b_sha256: Mapped[hex64] = mapped_column(primary_key=True)
    a_dtype: Mapped[str] = mapped_column(String(16), primary_key=True)
    b_dtype: Mapped[str] = mapped_column(String(16), primary_key=True)
    element_count: Mapped[count]
    equal_count: Mapped[count]
    max_abs: Mapped[float | None]
    """Largest absolute difference; null, as are the next two, where an element is not finite."""
    relative_l2: Mapped[float | None]
    """Norm of b - a over the norm of a; null also where a is zero and b is not."""
    cosine: Mapped[float | None]
    computed_at: Mapped[instant]
    __table_args__ = (digest_check("a_sha256"), digest_check("b_sha256"))


class VersionTag(Base):
    """A free annotation of a version, without behaviour."""

    __tablename__ = "version_tags"
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    key: Mapped[short] = mapped_column(primary_key=True)
    value: Mapped[text]


class ModelTag(Base):
    """A free annotation of a model, without behaviour."""

    __tablename__ = "model_tags"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    key: Mapped[short] = mapped_column(primary_key=True)
    value: Mapped[text]


class Metric(Base):
    """A number measured on a version; added at any time, never edited."""

    __tablename__ = "metrics"
    id: Mapped[bigid]
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    name: Mapped[short]
    value: Mapped[float]
    step: Mapped[int | None] = mapped_column(Id)
    dataset: Mapped[short | None]
    dataset_digest: Mapped[hex64 | None]
    split: Mapped[short | None]
    slice: Mapped[short | None]
    evaluator: Mapped[short | None]
    sample_count: Mapped[int | None] = mapped_column(Id)
    recorded_by: Mapped[short]
    recorded_at: Mapped[instant]
    __table_args__ = (
        Index("ix_metrics_version_id_name", "version_id", "name", "id"),
        digest_check("dataset_digest"),
        CheckConstraint("dataset_digest IS NULL OR dataset IS NOT NULL", name="dataset_named"),
        CheckConstraint("sample_count >= 0", name="sample_count_counts"),
    )


class LineageEdge(Base):
    """Child version to parent, which is a version here or something elsewhere by URI."""

    __tablename__ = "lineage_edges"
    id: Mapped[bigid]
    child_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    relation: Mapped[str] = mapped_column(String(16))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"), index=True)
    parent_uri: Mapped[str | None] = mapped_column(String(2048))
    __table_args__ = (
        UniqueConstraint("child_id", "relation", "parent_id"),
        UniqueConstraint("child_id", "relation", "parent_uri"),
        CheckConstraint("(parent_id IS NULL) <> (parent_uri IS NULL)", name="one_parent"),
        CheckConstraint("parent_id <> child_id", name="not_itself"),
        one_of(
            "relation", "finetune", "resume", "quantize", "prune", "merge", "distill", "adapter", "convert", "export"
        ),
    )


class Segment(Base):
    """Bytes known once per namespace by their sha256. `leased_until` keeps collection away while someone uploads."""

    __tablename__ = "segments"
    id: Mapped[bigid]
    namespace_id: Mapped[int] = mapped_column(ForeignKey("namespaces.id"))
    sha256: Mapped[hex64]
    size: Mapped[count]
    last_generation: Mapped[int] = mapped_column(default=0)
    leased_until: Mapped[instant]
    __table_args__ = (
        UniqueConstraint("namespace_id", "sha256"),
        digest_check("sha256"),
        CheckConstraint("size > 0", name="size_positive"),
    )


class StoredObject(Base):
    """What S3 holds for a segment. `pending`: a URL was given out; `live`: seen whole; `condemned`: being deleted."""

    __tablename__ = "objects"
    id: Mapped[bigid]
    segment_id: Mapped[int] = mapped_column(ForeignKey("segments.id"))
    generation: Mapped[int]
    codec: Mapped[str] = mapped_column(String(16), default="raw")
    base_segment_id: Mapped[int | None] = mapped_column(ForeignKey("segments.id"), index=True)
    stored_sha256: Mapped[hex64]
    stored_size: Mapped[count]
    state: Mapped[str] = mapped_column(String(16), default="pending")
    created_at: Mapped[instant]
    __table_args__ = (
        UniqueConstraint("segment_id", "generation"),
        Index(
            "uq_objects_live",
            "segment_id",
            unique=True,
            sqlite_where=sql("state = 'live'"),
            postgresql_where=sql("state = 'live'"),
        ),
        Index(
            "uq_objects_pending",
            "segment_id",
            unique=True,
            sqlite_where=sql("state = 'pending'"),
            postgresql_where=sql("state = 'pending'"),
        ),
        digest_check("stored_sha256"),
        one_of("state", "pending", "live", "condemned"),
        CheckConstraint("(codec = 'raw') OR (stored_size >= 0)", name="codec_sized"),
    )


class ArtifactSegment(Base):
    """The layout: which segment stands at which byte offset of an artifact."""

    __tablename__ = "artifact_segments"
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    segment_id: Mapped[int] = mapped_column(ForeignKey("segments.id"), index=True)
    offset: Mapped[count]


class WholeObject(Base):
    """A file that is also stored in one piece, while a version that holds it is on a stage, for plain downloads.

    `pending`: a worker is writing it; `live`: downloads are redirected to it; `condemned`: deleted once no URL to it
    can be valid.
    """

    __tablename__ = "whole_objects"
    id: Mapped[bigid]
    namespace_id: Mapped[int] = mapped_column(ForeignKey("namespaces.id"))
    sha256: Mapped[hex64]
    size: Mapped[count]
    generation: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="pending")
    created_at: Mapped[instant]
    condemned_at: Mapped[instant | None]
    __table_args__ = (
        UniqueConstraint("namespace_id", "sha256", "generation"),
        Index(
            "uq_whole_objects_current",
            "namespace_id",
            "sha256",
            unique=True,
            sqlite_where=sql("state <> 'condemned'"),
            postgresql_where=sql("state <> 'condemned'"),
        ),
        Index("ix_whole_objects_state_condemned_at", "state", "condemned_at"),
        digest_check("sha256"),
        one_of("state", "pending", "live", "condemned"),
        CheckConstraint("(state = 'condemned') = (condemned_at IS NOT NULL)", name="condemned_whole"),
    )


class Upload(Base):
    """An open push: who may send segments to which model, until when."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    namespace_id: Mapped[int] = mapped_column(ForeignKey("namespaces.id"))
    model_name: Mapped[short]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    state: Mapped[str] = mapped_column(String(16), default="open")
    created_at: Mapped[instant]
    expires_at: Mapped[instant]
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    __table_args__ = (
        Index("ix_uploads_state_expires_at", "state", "expires_at"),
        one_of("state", "open", "committed", "expired"),
        CheckConstraint("(state = 'committed') = (version_id IS NOT NULL)", name="committed_to"),
    )


class Pointer(Base):
    """An alias or a stage: a name inside one model that means one version. A stage may be empty, an alias may not."""

    __tablename__ = "pointers"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    number: Mapped[int | None]
    seq: Mapped[count]
    """For a stage: number of its newest history entry. For an alias: how often it moved."""
    moved_by: Mapped[short]
    moved_at: Mapped[instant]
    __table_args__ = (
        ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        Index("ix_pointers_model_id_number", "model_id", "number"),
        Index("ix_pointers_name", "name", "kind"),
        one_of("kind", "alias", "stage"),
        CheckConstraint("kind = 'stage' OR number IS NOT NULL", name="alias_points"),
    )


class Policy(Base):
    """One revision of the policy of a stage: of one model, or of every model of a namespace that has none itself."""

    __tablename__ = "policies"
    id: Mapped[bigid]
    namespace_id: Mapped[int] = mapped_column(ForeignKey("namespaces.id"))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    stage: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]
    document: Mapped[document | None]
    """Null where a model's own policy was taken away, so that the namespace's counts again."""
    message: Mapped[text] = mapped_column(default="")
    created_by: Mapped[short]
    created_at: Mapped[instant]
    __table_args__ = (
        Index(
            "uq_policies_of_model",
            "model_id",
            "stage",
            "revision",
            unique=True,
            sqlite_where=sql("model_id IS NOT NULL"),
            postgresql_where=sql("model_id IS NOT NULL"),
        ),
        Index(
            "uq_policies_of_namespace",
            "namespace_id",
            "stage",
            "revision",
            unique=True,
            sqlite_where=sql("model_id IS NULL"),
            postgresql_where=sql("model_id IS NULL"),
        ),
        CheckConstraint("revision >= 1", name="revision_counts"),
    )


class Promotion(Base):
    """A request to change a stage's holder. Applied ones, by `seq`, are the stage's history."""

    __tablename__ = "promotions"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    stage: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    number: Mapped[int | None]
    previous: Mapped[int | None]
    seq: Mapped[int | None]
    base_seq: Mapped[int]
    """The stage's seq this request was made against; if it moved, evidence and approvals are stale."""
    message: Mapped[text] = mapped_column(default="")
    policy_id: Mapped[int | None] = mapped_column(ForeignKey("policies.id"))
    """The revision of the policy that its gates were taken from; null if the stage had none."""
    gates: Mapped[documents]
    evidence_sha256: Mapped[hex64 | None]
    """What the gates said of which content: approvals are bound to it."""
    requested_by: Mapped[short]
    requested_at: Mapped[instant]
    decided_at: Mapped[instant | None]
    expires_at: Mapped[instant | None]
    policy: Mapped["Policy | None"] = relationship(lazy="raise")
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "number"], ["versions.model_id", "versions.number"], name="fk_promotions_number"
        ),
        ForeignKeyConstraint(
            ["model_id", "previous"], ["versions.model_id", "versions.number"], name="fk_promotions_previous"
        ),
        Index("uq_promotions_seq", "model_id", "stage", "seq", unique=True),
        Index("ix_promotions_at", "model_id", "stage", "decided_at"),
        Index("ix_promotions_requested", "model_id", "stage", "requested_at", "id"),
        Index("ix_promotions_pending", "state", "expires_at"),
        digest_check("evidence_sha256"),
        one_of("kind", "promote", "rollback", "demote", "force", "auto"),
        one_of("state", "pending", "applied", "rejected", "cancelled", "expired", "failed"),
        CheckConstraint("(state = 'applied') = (seq IS NOT NULL)", name="applied_numbered"),
        CheckConstraint("(kind = 'demote') = (number IS NULL)", name="demote_empties"),
    )


class Approval(Base):
    """One person's decision on one promotion, and the evidence it was made on. A lapsed one no longer counts."""

    __tablename__ = "approvals"
    id: Mapped[bigid]
    promotion_id: Mapped[str] = mapped_column(ForeignKey("promotions.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    user_name: Mapped[short]
    decision: Mapped[str] = mapped_column(String(8))
    comment: Mapped[text] = mapped_column(default="")
    evidence_sha256: Mapped[hex64]
    decided_at: Mapped[instant]
    lapsed_at: Mapped[instant | None]
    __table_args__ = (
        Index(
            "uq_approvals_counting",
            "promotion_id",
            "user_id",
            unique=True,
            sqlite_where=sql("lapsed_at IS NULL"),
            postgresql_where=sql("lapsed_at IS NULL"),
        ),
        digest_check("evidence_sha256"),
        one_of("decision", "approve", "reject"),
    )


class Consumer(Base):
    """A process that runs what a reference means, as it last said. It is gone when it has been silent for too long."""

    __tablename__ = "consumers"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[short]
    follows: Mapped[str] = mapped_column(String(512))
    number: Mapped[int | None]
    seq: Mapped[int | None] = mapped_column(Id)
    state: Mapped[str] = mapped_column(String(16))
    detail: Mapped[text] = mapped_column(default="")
    started_at: Mapped[instant]
    seen_at: Mapped[instant]
    expires_at: Mapped[instant]
    __table_args__ = (
        ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
        Index("ix_consumers_model_id_expires_at", "model_id", "expires_at"),
        Index("ix_consumers_expires_at", "expires_at"),
        one_of("state", "pulling", "running", "failed"),
    )


class Webhook(Base):
    """Where to send events of a namespace, or of one model."""

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    namespace_id: Mapped[int] = mapped_column(ForeignKey("namespaces.id"), index=True)
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    url: Mapped[str] = mapped_column(String(2048))
    actions: Mapped[documents]
    """Which events, such as `promotion:apply` or `version:*`; empty means all."""
    description: Mapped[text] = mapped_column(default="")
    secrets: Mapped[documents]
    """`{"secret", "expires_at"}`, the newest first: while they overlap, a delivery is signed with each."""
    is_enabled: Mapped[bool] = mapped_column(default=True)
    created_by: Mapped[short]
    created_at: Mapped[instant]
    deleted_at: Mapped[instant | None]


class Lane(Base):
    """What keeps its order at one webhook: a model's events, or its namespace's. One message is under way at a time."""

    __tablename__ = "webhook_lanes"
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"), primary_key=True)
    name: Mapped[short] = mapped_column(primary_key=True)
    due_at: Mapped[instant | None]
    """When the dispatcher has to look at it; null while nothing waits. Under way: when its lease ends."""
    lease: Mapped[str | None] = mapped_column(String(32))
    """Drawn by the dispatcher that has a message of it under way."""
    __table_args__ = (Index("ix_webhook_lanes_due_at", "due_at"),)


class Delivery(Base):
    """One event on its way to one webhook. Its id is the message's: a receiver tells repetitions by it."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    chain: Mapped[short]
    seq: Mapped[int] = mapped_column(Id)
    lane: Mapped[short]
    state: Mapped[str] = mapped_column(String(16), default="pending")
    attempt_count: Mapped[int] = mapped_column(default=0)
    failure_count: Mapped[int] = mapped_column(default=0)
    """Of the attempts since it was queued, or queued again."""
    due_at: Mapped[instant]
    created_at: Mapped[instant]
    ended_at: Mapped[instant | None]
    __table_args__ = (
        ForeignKeyConstraint(["chain", "seq"], ["events.chain", "events.seq"]),
        UniqueConstraint("webhook_id", "chain", "seq"),
        Index("ix_deliveries_lane", "webhook_id", "lane", "state", "seq"),
        Index("ix_deliveries_state", "webhook_id", "state", "seq"),
        Index("ix_deliveries_ended_at", "ended_at"),
        one_of("state", "pending", "delivered", "dead"),
    )


class DeliveryAttempt(Base):
    """One request of a delivery and what came of it. Written before it is sent, so that none is without a trace."""

    __tablename__ = "delivery_attempts"
    delivery_id: Mapped[str] = mapped_column(ForeignKey("deliveries.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[instant]
    status: Mapped[int | None]
    latency_ms: Mapped[int]
    error: Mapped[short | None]


class Chain(Base):
    """The head of one hash chain of events: a namespace's, or `_system` for users and tokens."""

    __tablename__ = "chains"
    name: Mapped[short] = mapped_column(primary_key=True)
    last_seq: Mapped[count]
    last_hash: Mapped[hex64]


class Event(Base):
    """An append-only fact. `hash` covers the fact and the hash before it."""

    __tablename__ = "events"
    chain: Mapped[short] = mapped_column(ForeignKey("chains.name"), primary_key=True)
    seq: Mapped[int] = mapped_column(Id, primary_key=True)
    actor: Mapped[short]
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(1024))
    at: Mapped[instant]
    detail: Mapped[document]
    previous_hash: Mapped[hex64]
    hash: Mapped[hex64]
    __table_args__ = (digest_check("hash"), digest_check("previous_hash"))


class IdempotencyKey(Base):
    """The answer once given to an unsafe request with an `Idempotency-Key`, so that a retry gets the same."""

    __tablename__ = "idempotency_keys"
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    key: Mapped[short] = mapped_column(primary_key=True)
    request_sha256: Mapped[hex64]
    status: Mapped[int]
    body: Mapped[text]
    created_at: Mapped[instant]
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"), digest_check("request_sha256"))
