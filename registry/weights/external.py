"""External data: tensors that one file of a version lists and another file of it holds, as ONNX models have them.

A place leads nowhere but to a file of the same version, at or below the folder of the one that names it. The file that
holds the tensors gets them as its own, so that it is cut by them and lists them. A header of its own wins; of two
tensors that would share bytes or a name, which tied weights and two models on one file do, the first is kept.
"""

from collections.abc import Iterable, Mapping

from registry.weights.errors import (
    OnnxExternalMissingError,
    OnnxExternalPathError,
    OnnxExternalRangeError,
    OnnxTooManyTensorsError,
)
from registry.weights.tensors import Header, Tensor

MAX_TENSORS = 100_000
"""In one file, from all that name it."""
_ESCAPES_FOLDER = frozenset("\\:\0")


def headers(own: Mapping[str, Header], sizes: Mapping[str, int]) -> dict[str, Header]:
    """The header that each file of external data gets, by path; none for a file that has one of its own.

    `own` has the headers of the version's files that have one, `sizes` the sizes of all its files. Raises
    OnnxExternalPathError, OnnxExternalMissingError, OnnxExternalRangeError or OnnxTooManyTensorsError.
    """
    placed: dict[str, list[Tensor]] = {}
    for path, header in own.items():
        for location, tensors in header.elsewhere.items():
            target = _target(path, location)
            if target not in sizes:
                message = f"{path} places tensors in {target}, which is not among the files of the version."
                raise OnnxExternalMissingError(message, file=target)
            _check_range(path, target, sizes[target], tensors)
            placed.setdefault(target, []).extend(tensors)
            if len(placed[target]) > MAX_TENSORS:
                message = f"{path} and others place more than {MAX_TENSORS:,} tensors in {target}."
                raise OnnxTooManyTensorsError(message, file=target)
    return {target: Header(_apart(tensors), {}, 0) for target, tensors in placed.items() if target not in own}


def _target(path: str, location: str) -> str:
    parts = [part for part in location.split("/") if part != "."]
    plain = location.isprintable() and len(location) <= 1024 and not _ESCAPES_FOLDER.intersection(location)
    if not plain or not parts or "" in parts or ".." in parts:
        shown = ascii(location if len(location) <= 64 else location[:61] + "...")
        message = f"{path} places tensors in {shown}, which is no plain path below its own folder."
        raise OnnxExternalPathError(message, location=location[:1024])
    return path[: path.rfind("/") + 1] + "/".join(parts)


def _check_range(path: str, target: str, size: int, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        end = tensor.offset + tensor.size
        if end > size:
            message = f"{path} places tensor {tensor.name!r} up to byte {end:,} of {target}, which has only {size:,}."
            raise OnnxExternalRangeError(message, tensor=tensor.name, file=target)


def _apart(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """By offset, without those that share bytes or a name with one before."""
    kept: list[Tensor] = []
    names: set[str] = set()
    end = 0
    for tensor in sorted(tensors, key=lambda each: (each.offset, -each.size, each.name)):
        if tensor.offset < end or tensor.name in names:
            continue
        kept.append(tensor)
        names.add(tensor.name)
        end = tensor.offset + tensor.size
    return tuple(kept)
