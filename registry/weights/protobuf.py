"""The wire format of protobuf, walked without building anything: a message is a range of the file.

    field = tag (varint: number << 3 | type), then by type   0  a varint      1  8 bytes      5  4 bytes
                                                             2  a length (varint) and so many bytes

Large fields are stepped over unread. What is read comes through a window that begins small after each such step and
doubles while reading goes on without one: a model of large tensors costs few bytes a tensor, one of many nodes few
reads. Groups, types 3 and 4, are of the time before ONNX and refused.
"""

from collections.abc import Callable, Iterator

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
MAX_READS = 4096
MAX_READ_BYTES = 16 * 2**20
"""Of all reads together."""
MAX_FIELDS = 1_000_000
_FIRST_READ = 4 * 2**10
_LARGEST_READ = 256 * 2**10
_FIXED = {EIGHT: 8, FOUR: 4}

Field = tuple[int, int, int, int]
"""Number, type, and the value of a varint or else where the content starts; then where the field ends."""


class WireError(Exception):
    """The bytes are not a message; the text is the end of a sentence."""


class ShortFileError(WireError):
    """The file ends within a field that is not inside another."""


class OverBudgetError(Exception):
    """The message needs more reading than is allowed; nothing is wrong with it so far."""


class Scanner:
    """A file as messages, read in bounds."""

    __slots__ = ("_data", "_fields", "_read", "_read_bytes", "_reads", "_start", "_step", "size")

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        """Read nothing yet."""
        self.size, self._read = size, read
        self._data, self._start, self._step = b"", 0, _FIRST_READ // 2
        self._reads, self._read_bytes, self._fields = MAX_READS, MAX_READ_BYTES, MAX_FIELDS

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message that lies there. Raises WireError, or OverBudgetError."""
        position = start
        while position < stop:
            self._fields -= 1
            if self._fields < 0:
                raise OverBudgetError
            begun = position
            tag, position = self._varint(position, stop)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29 or kind not in {VARINT, EIGHT, BYTES, FOUR}:
                raise WireError(f"no field of a known type begins at byte {begun:,}")
            if kind == VARINT:
                value, position = self._varint(position, stop)
                yield number, kind, value, position
                continue
            if kind == BYTES:
                length, position = self._varint(position, stop)
            else:
                length = _FIXED[kind]
            end = position + length
            if end > stop:
                error = ShortFileError if stop == self.size else WireError
                raise error(f"the field at byte {begun:,} ends at {end:,}, after what holds it ends at {stop:,}")
            yield number, kind, position, end
            position = end

    def content(self, start: int, stop: int, *, limit: int) -> bytes:
        """The bytes there, at most `limit` of them."""
        return self._bytes(start, min(stop, start + limit))

    def packed(self, start: int, stop: int, *, limit: int) -> list[int]:
        """The varints that fill the range, at most `limit` of them."""
        found: list[int] = []
        while start < stop and len(found) < limit:
            value, start = self._varint(start, stop)
            found.append(value)
        return found

    def _varint(self, position: int, stop: int) -> tuple[int, int]:
        at = position - self._start
        if 0 <= at < len(self._data) and position < stop and self._data[at] < 128:
            return self._data[at], position + 1
        value = 0
        for index, byte in enumerate(self._bytes(position, min(stop, position + 10)) if position < stop else b""):
            value |= (byte & 127) << 7 * index
            if byte < 128:
                if value >> 64:
                    break
                return value, position + index + 1
        error = ShortFileError if stop == self.size < position + 10 else WireError
        raise error(f"the number at byte {position:,} has no end")

    def _bytes(self, start: int, stop: int) -> bytes:
        end = self._start + len(self._data)
        if start < self._start or stop > end:
            self._load(start, stop - start, goes_on=self._start <= start <= end + _FIRST_READ)
        at = start - self._start
        return self._data[at : at + stop - start]

    def _load(self, start: int, least: int, *, goes_on: bool) -> None:
        self._step = min(2 * self._step, _LARGEST_READ) if goes_on else _FIRST_READ
        wanted = min(max(self._step, least), self.size - start)
        self._reads -= 1
        self._read_bytes -= wanted
        if self._reads < 0 or self._read_bytes < 0:
            raise OverBudgetError
        self._data, self._start = self._read(start, wanted), start
        if len(self._data) < min(least, wanted):
            raise ShortFileError(f"the file ends before byte {start + least:,}")
