"""Lineage: what a version was made from.

An edge is written in the transaction that publishes its child, and names a parent that is already published or a URI
outside the registry. Edges are never added later, so a parent is always older than its child and a cycle cannot arise:
nothing here looks for one. A derived version (`variant` set) has exactly one edge, to its original.
"""

from enum import StrEnum


class Relation(StrEnum):
    """How a child came from its parent."""

    FINETUNE = "finetune"
    RESUME = "resume"
    QUANTIZE = "quantize"
    PRUNE = "prune"
    MERGE = "merge"
    DISTILL = "distill"
    ADAPTER = "adapter"
    CONVERT = "convert"
    EXPORT = "export"
