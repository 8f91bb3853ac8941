"""Sharded checkpoints: `model.safetensors.index.json` says which file of its folder holds which tensor.

{"metadata": {"total_size": 1234, …}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors", …}}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from registry.weights.errors import (
    ShardIndexInvalidError,
    ShardIndexTooLargeError,
    ShardMissingError,
    ShardTensorDuplicateError,
    ShardTensorMissingError,
    ShardTensorUnlistedError,
    ShardTotalSizeError,
)
from registry.weights.json_scan import ScanError, Scanner
from registry.weights.tensors import Header

SUFFIX = ".safetensors.index.json"
MAX_INDEX = 32 * 2**20
"""Bytes of an index file."""
MAX_INDEX_TENSORS = 1_000_000
"""Tensors of one index: ten shards as large as one may be."""
_MAX_INDEX_METADATA = 64 * 2**10
_ESCAPES_FOLDER = frozenset("/\\:\0")


@dataclass(frozen=True, slots=True)
class Index:
    """What an index says: the shard of each tensor, and the bytes of all tensors if it tells."""

    weight_map: dict[str, str]
    total_size: int | None

    @property
    def shards(self) -> tuple[str, ...]:
        """The files that the index names, each once, sorted."""
        return tuple(sorted(set(self.weight_map.values())))


def is_index(path: str) -> bool:
    """True if a file of this name is the index of a sharded safetensors checkpoint."""
    return path.lower().endswith(SUFFIX)


def parse_index(data: bytes) -> Index:
    """Read an index, strictly. Raises ShardIndexInvalidError, or ShardIndexTooLargeError over the limits."""
    if len(data) > MAX_INDEX:
        raise ShardIndexTooLargeError(f"The index has {len(data):,} bytes, more than the {MAX_INDEX:,} allowed.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ShardIndexInvalidError(f"The index is not UTF-8 at byte {error.start}.") from None
    scanner = Scanner(text)
    try:
        index = _index(scanner)
        scanner.end()
    except ScanError as error:
        raise ShardIndexInvalidError(f"The index is not valid: {error}.") from None
    return index


def check_shards(index_path: str, index: Index, headers: Mapping[str, Header]) -> None:
    """Check that an index and its shards agree; `headers` has the header of every safetensors file by its path.

    Raises the leaf of ShardError that belongs to the first disagreement: a shard missing, a tensor missing from the
    shard that should have it, in two shards, or unlisted, or a `total_size` that is not the sum of the tensors' bytes.
    """
    folder = index_path[: index_path.rfind("/") + 1]
    shards = index.shards
    for shard in shards:
        if folder + shard not in headers:
            raise ShardMissingError(f"{index_path} names the shard {shard!r}, which is not there.", shard=shard)
    holder: dict[str, str] = {}
    total = 0
    for shard in shards:
        for tensor in headers[folder + shard].tensors:
            other = holder.setdefault(tensor.name, shard)
            if other != shard:
                message = f"Tensor {tensor.name!r} is in {other!r} and in {shard!r}."
                raise ShardTensorDuplicateError(message, tensor=tensor.name, shards=[other, shard])
            if tensor.name not in index.weight_map:
                message = f"Tensor {tensor.name!r} of {shard!r} is not listed in {index_path}."
                raise ShardTensorUnlistedError(message, tensor=tensor.name, shard=shard)
            total += tensor.size
    for name, shard in index.weight_map.items():
        if holder.get(name) != shard:
            message = f"{index_path} places tensor {name!r} in {shard!r}, which does not have it."
            raise ShardTensorMissingError(message, tensor=name, shard=shard)
    if index.total_size is not None and index.total_size != total:
        message = f"{index_path} says total_size {index.total_size:,}, but its tensors have {total:,} bytes."
        raise ShardTotalSizeError(message, expected=index.total_size, actual=total)


def _index(scanner: Scanner) -> Index:
    weight_map: dict[str, str] | None = None
    total_size: int | None = None
    seen: set[str] = set()
    for key in scanner.members():
        if key in seen:
            raise ShardIndexInvalidError(f"The index has {key[:64]!a} twice.")
        seen.add(key)
        if key == "weight_map":
            weight_map = _weight_map(scanner)
        elif key == "metadata":
            total_size = _total_size(scanner)
        else:
            message = f"The index has the key {key[:64]!a}, which is neither metadata nor weight_map."
            raise ShardIndexInvalidError(message)
    if not weight_map:
        raise ShardIndexInvalidError("The index has no weight_map, or an empty one.")
    return Index(weight_map, total_size)


def _weight_map(scanner: Scanner) -> dict[str, str]:
    found: dict[str, str] = {}
    files: dict[str, str] = {}  # one string object a shard, not one a tensor
    for name in scanner.members():
        if name in found:
            raise ShardIndexInvalidError(f"The index lists tensor {name[:64]!a} twice.", tensor=name)
        if len(found) == MAX_INDEX_TENSORS:
            raise ShardIndexTooLargeError(f"The index lists more than {MAX_INDEX_TENSORS:,} tensors.")
        file = scanner.string()
        if file not in files:
            _check_file(file)
            files[file] = file
        found[name] = files[file]
    return found


def _check_file(file: str) -> None:
    """A shard lies beside its index: a path that leads elsewhere would be followed by whoever loads the model."""
    plain = file.isprintable() and len(file) <= 255 and not _ESCAPES_FOLDER.intersection(file)
    if not plain or file.startswith(".") or not file.endswith(".safetensors"):
        message = f"The index names the shard {file[:64]!a}, which is no plain file name ending in .safetensors."
        raise ShardIndexInvalidError(message)


def _total_size(scanner: Scanner) -> int | None:
    """`metadata.total_size`; what else writers put there is theirs. Whole floats pass: some writers leave them."""
    scanner.peek()
    start = scanner.position
    try:
        found, length = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer).raw_decode(
            scanner.text[start : start + _MAX_INDEX_METADATA]
        )
    except (ValueError, RecursionError):
        message = f"The metadata of the index is not valid JSON of at most {_MAX_INDEX_METADATA:,} characters."
        raise ShardIndexInvalidError(message) from None
    scanner.position = start + length
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ShardIndexInvalidError("The metadata of the index is not an object.")
    total = found.get("total_size")
    if total is None:
        return None
    whole = isinstance(total, int | float) and not isinstance(total, bool) and 0 <= total < 2**63
    if not whole or int(total) != total:
        raise ShardIndexInvalidError("The total_size of the index is not an integer from 0 up.")
    return int(total)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("integer too long")
    return int(digits)
