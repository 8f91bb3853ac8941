"""What can be wrong with a weight file. Every message names the tensor, the shard or the byte that breaks the rule.

- SafetensorsError: the file ends in `.safetensors` and is not a valid one; a leaf for each rule of `safetensors.py`
- ShardError: a sharded checkpoint and its index do not agree; a leaf for each rule of `sharded.py`
- GgufError, OnnxError: the same for `.gguf` and `.onnx`; leaves for the rules of `gguf.py`, `onnx.py`, `external.py`
- WeightsTooComplexError: a file whose reading takes more than it may
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


class GgufError(WeightsError):
    """A `.gguf` file breaks a rule of its format."""

    remedy = "Convert or quantize the model again and push that."


class GgufMagicError(GgufError):
    """The `.gguf` file does not begin as GGUF does."""

    code = "GGUF_MAGIC"
    remedy = "Check that the file really is GGUF, and give it the name of what it is if not."


class GgufVersionError(GgufError):
    """The version of the GGUF file is none that the registry knows (1 to 3)."""

    code = "GGUF_VERSION"
    remedy = "Convert the model to GGUF version 3."


class GgufTruncatedError(GgufError):
    """The GGUF file ends before its header, or before a tensor that its header lists."""

    code = "GGUF_TRUNCATED"
    remedy = "The file is cut short or damaged: copy or convert it again, and compare its size."


class GgufHeaderTooLargeError(GgufError):
    """The header of the GGUF file is larger than the registry reads (16 MiB)."""

    code = "GGUF_HEADER_TOO_LARGE"
    remedy = "Check that the file is undamaged; keep large metadata, other than the tokenizer, in a file of its own."


class GgufMetadataError(GgufError):
    """A metadata key or value of the GGUF file is of no known type, not text where it must be, or over a limit."""

    code = "GGUF_METADATA"


class GgufDuplicateKeyError(GgufError):
    """The GGUF file has a metadata key twice."""

    code = "GGUF_DUPLICATE_KEY"


class GgufTooManyTensorsError(GgufError):
    """The GGUF file lists more tensors than the registry takes in one file (100,000)."""

    code = "GGUF_TOO_MANY_TENSORS"
    remedy = "Check that the file is undamaged; split the model if it really has that many."


class GgufNameError(GgufError):
    """A tensor's name is empty, longer than 1,024 bytes, not UTF-8, or has control characters."""

    code = "GGUF_NAME"


class GgufDuplicateTensorError(GgufError):
    """The GGUF file lists two tensors of one name."""

    code = "GGUF_DUPLICATE_TENSOR"


class GgufRankError(GgufError):
    """A tensor of the GGUF file has more than 32 dimensions."""

    code = "GGUF_RANK"


class GgufOverflowError(GgufError):
    """The dimensions of a tensor in the GGUF file ask for more bytes than 64 bits can count."""

    code = "GGUF_OVERFLOW"


class GgufDtypeError(GgufError):
    """A tensor of the GGUF file has a type that the registry does not know."""

    code = "GGUF_DTYPE"
    remedy = "Use a type that released versions of ggml read, or a newer registry."


class GgufBlockError(GgufError):
    """A row of a quantized tensor in the GGUF file is not whole blocks of its type."""

    code = "GGUF_BLOCK"


class GgufAlignmentError(GgufError):
    """A tensor of the GGUF file does not start where the alignment allows, or the alignment is no power of two."""

    code = "GGUF_ALIGNMENT"


class GgufOverlapError(GgufError):
    """Two tensors of the GGUF file share bytes."""

    code = "GGUF_OVERLAP"


class OnnxError(WeightsError):
    """An `.onnx` file breaks a rule of its format."""

    remedy = "Export the model again and push that."


class OnnxSyntaxError(OnnxError):
    """The `.onnx` file is not the protobuf message that the format prescribes."""

    code = "ONNX_SYNTAX"
    remedy = "Check that the file really is ONNX, and export it again if so."


class OnnxTruncatedError(OnnxError):
    """The ONNX file ends before a field that it begins."""

    code = "ONNX_TRUNCATED"
    remedy = "The file is cut short or damaged: copy or export it again, and compare its size."


class OnnxNotModelError(OnnxError):
    """The `.onnx` file is a message without the graph or the version that every ONNX model has."""

    code = "ONNX_NOT_A_MODEL"
    remedy = "Check that the file really is an ONNX model: single tensors, for example, are named `.pb`."


class OnnxTooManyTensorsError(OnnxError):
    """The ONNX model lists more tensors than the registry takes in one file (100,000)."""

    code = "ONNX_TOO_MANY_TENSORS"


class OnnxNameError(OnnxError):
    """An initializer's name is empty, longer than 1,024 bytes, not UTF-8, or has control characters."""

    code = "ONNX_NAME"


class OnnxDuplicateNameError(OnnxError):
    """Two initializers of the ONNX model have one name."""

    code = "ONNX_DUPLICATE_NAME"


class OnnxDtypeError(OnnxError):
    """An initializer of the ONNX model has no element type, or one that the registry does not know."""

    code = "ONNX_DTYPE"


class OnnxShapeError(OnnxError):
    """An initializer has a negative dimension, more than 32 of them, or more bytes than 64 bits can count."""

    code = "ONNX_SHAPE"


class OnnxSizeMismatchError(OnnxError):
    """An initializer's data is not as long as its type and dimensions need, or is there twice."""

    code = "ONNX_SIZE_MISMATCH"


class OnnxExternalError(OnnxError):
    """What the ONNX model says of the place of external data is not text and whole numbers, or is incomplete."""

    code = "ONNX_EXTERNAL_INVALID"


class OnnxExternalPathError(OnnxError):
    """The external data of the ONNX model is at a path that could lead out of the model's folder."""

    code = "ONNX_EXTERNAL_PATH"
    remedy = "Save the model with its external data in a file beside it, named by a plain relative path."


class OnnxExternalMissingError(OnnxError):
    """The file that holds external data of the ONNX model is not among the files of the version."""

    code = "ONNX_EXTERNAL_MISSING"
    remedy = "Push the folder that holds the model and the files of its external data together."


class OnnxExternalRangeError(OnnxError):
    """The file of external data ends before a tensor that the ONNX model places in it."""

    code = "ONNX_EXTERNAL_RANGE"
    remedy = "Push the model with the data that was saved with it: one of the two is of another export, or cut short."


class WeightsTooComplexError(WeightsError):
    """Looking into the file took more than the 5 seconds of processor time or 256 MB of memory that it may."""

    code = "WEIGHTS_TOO_COMPLEX"
    remedy = "Save the model in smaller files; tell the operator if it is an ordinary one."


class TensorDtypeError(WeightsError):
    """The array library that was asked for has no type for the tensor's dtype."""

    code = "TENSOR_DTYPE_UNSUPPORTED"
    remedy = "Use a newer release of the array library, or load the tensor as numpy."


class TorchMissingError(LocalError):
    """Tensors were asked for as torch tensors and torch is not installed."""

    code = "TORCH_MISSING"
    remedy = "Install torch, or load the tensors as numpy arrays."
