"""What can be wrong with a weight file. Every message names the tensor, the shard or the byte that breaks the rule.

- SafetensorsError: the file ends in `.safetensors` and is not a valid one; a leaf for each rule of `safetensors.py`
- ShardError: a sharded checkpoint and its index do not agree; a leaf for each rule of `sharded.py`
- TensorDtypeError: no array type can hold the tensor
- TorchMissingError: torch was asked for and is not installed
"""

from registry.domain.errors import LocalError, WeightsError


class SafetensorsError(WeightsError):
    """A `.safetensors` file breaks a rule of its format."""

    remedy = "Write the file again with the safetensors library and push that."


class SafetensorsTruncatedError(SafetensorsError):
    """The safetensors file ends before its header, or before a tensor that its header lists."""

    code = "SAFETENSORS_TRUNCATED"
    remedy = "The file is cut short or not safetensors at all: copy or save it again, and compare its size."


class SafetensorsHeaderTooLargeError(SafetensorsError):
    """The safetensors header says it is larger than the registry reads (16 MiB)."""

    code = "SAFETENSORS_HEADER_TOO_LARGE"
    remedy = "Check that the file really is safetensors; split a model with that many tensors into shards."


class SafetensorsEncodingError(SafetensorsError):
    """The safetensors header is not UTF-8."""

    code = "SAFETENSORS_ENCODING"
    remedy = "Check that the file really is safetensors, and save it again if so."


class SafetensorsSyntaxError(SafetensorsError):
    """The safetensors header is not the JSON that the format prescribes."""

    code = "SAFETENSORS_SYNTAX"
    remedy = "Check that the file really is safetensors, and save it again if so."


class SafetensorsNotObjectError(SafetensorsError):
    """The safetensors header, or what it says of a tensor, is not a JSON object."""

    code = "SAFETENSORS_NOT_AN_OBJECT"


class SafetensorsDuplicateKeyError(SafetensorsError):
    """The safetensors header names a tensor, a field or a metadata key twice."""

    code = "SAFETENSORS_DUPLICATE_KEY"
    remedy = "Give each tensor a name of its own and save the file again: readers disagree on which of two wins."


class SafetensorsUnknownFieldError(SafetensorsError):
    """The safetensors header has a field for a tensor that is not dtype, shape or data_offsets."""

    code = "SAFETENSORS_UNKNOWN_FIELD"


class SafetensorsMissingFieldError(SafetensorsError):
    """The safetensors header lacks dtype, shape or data_offsets for a tensor."""

    code = "SAFETENSORS_MISSING_FIELD"


class SafetensorsMetadataError(SafetensorsError):
    """`__metadata__` in a safetensors header is not an object of text to text within the limits."""

    code = "SAFETENSORS_METADATA"
    remedy = "Pass metadata as a dictionary of strings when saving the file."


class SafetensorsTooManyTensorsError(SafetensorsError):
    """The safetensors header lists more tensors than the registry takes in one file (100,000)."""

    code = "SAFETENSORS_TOO_MANY_TENSORS"
    remedy = "Save the model in shards."


class SafetensorsNameError(SafetensorsError):
    """A tensor's name is empty, longer than 1,024 characters, or has control characters or half a surrogate pair."""

    code = "SAFETENSORS_NAME"
    remedy = "Rename the tensor and save the file again."


class SafetensorsDtypeError(SafetensorsError):
    """A tensor's dtype is none that safetensors knows."""

    code = "SAFETENSORS_DTYPE"


class SafetensorsShapeError(SafetensorsError):
    """A tensor's shape is not a list of integers from 0 up."""

    code = "SAFETENSORS_SHAPE"


class SafetensorsRankError(SafetensorsError):
    """A tensor has more than 32 dimensions."""

    code = "SAFETENSORS_RANK"
    remedy = "Reshape the tensor and save the file again."


class SafetensorsOffsetsError(SafetensorsError):
    """A tensor's data_offsets are not two integers from 0 up, the first not above the second."""

    code = "SAFETENSORS_OFFSETS"


class SafetensorsOverflowError(SafetensorsError):
    """A tensor's shape asks for more bytes than 64 bits can count."""

    code = "SAFETENSORS_OVERFLOW"


class SafetensorsSizeMismatchError(SafetensorsError):
    """A tensor's byte range is not as long as its dtype and shape need."""

    code = "SAFETENSORS_SIZE_MISMATCH"


class SafetensorsHoleError(SafetensorsError):
    """Bytes between two tensors belong to none."""

    code = "SAFETENSORS_HOLE"


class SafetensorsOverlapError(SafetensorsError):
    """Two tensors share bytes."""

    code = "SAFETENSORS_OVERLAP"


class SafetensorsTrailingBytesError(SafetensorsError):
    """Bytes after the last tensor belong to none."""

    code = "SAFETENSORS_TRAILING_BYTES"


class ShardError(WeightsError):
    """A sharded checkpoint and its index do not agree."""

    remedy = "Save the checkpoint again, into an empty folder, and push the whole folder."


class ShardIndexInvalidError(ShardError):
    """The index of a sharded checkpoint is not the JSON that it should be, or names files outside its folder."""

    code = "SHARD_INDEX_INVALID"


class ShardIndexTooLargeError(ShardError):
    """The index of a sharded checkpoint is over a limit: 32 MiB, or 1,000,000 tensors."""

    code = "SHARD_INDEX_TOO_LARGE"


class ShardMissingError(ShardError):
    """A shard that the index names is not among the files."""

    code = "SHARD_MISSING"
    remedy = "Push every file that the index names, from the folder that holds the index."


class ShardTensorMissingError(ShardError):
    """The index places a tensor in a shard that does not have it."""

    code = "SHARD_TENSOR_MISSING"


class ShardTensorUnlistedError(ShardError):
    """A shard has a tensor that the index does not list."""

    code = "SHARD_TENSOR_UNLISTED"


class ShardTensorDuplicateError(ShardError):
    """Two shards of one index have a tensor of the same name."""

    code = "SHARD_TENSOR_DUPLICATE"


class ShardTotalSizeError(ShardError):
    """The index's total_size is not the sum of the bytes of its tensors."""

    code = "SHARD_TOTAL_SIZE"


class TensorDtypeError(WeightsError):
    """The array library that was asked for has no type for the tensor's dtype."""

    code = "TENSOR_DTYPE_UNSUPPORTED"
    remedy = "Use a newer release of the array library, or load the tensor as numpy."


class TorchMissingError(LocalError):
    """Tensors were asked for as torch tensors and torch is not installed."""

    code = "TORCH_MISSING"
    remedy = "Install torch, or load the tensors as numpy arrays."
