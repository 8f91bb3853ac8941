"""A scanner for JSON whose shape is known: it builds nothing that the caller did not ask for.

Python's `json` first builds the whole document; one of 16 MiB can cost half a gigabyte, or end in a RecursionError.
Here the caller walks the grammar and stops at the first token that does not fit. Nothing recurses.
"""

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = json.JSONDecoder()
MAX_ARRAY = 4096
"""Characters of a list of integers: 32 of 20 digits, each on a line of its own far to the right."""


class ScanError(Exception):
    """The text is not what was expected at `position` (in characters); the message is the end of a sentence."""

    def __init__(self, expected: str, position: int) -> None:
        """Keep what was expected and where."""
        super().__init__(f"{expected} at character {position}")
        self.position = position


class Scanner:
    """A position in a text, moved forward by the methods, each of which skips white space first."""

    __slots__ = ("position", "text")

    def __init__(self, text: str) -> None:
        """Start at the first character."""
        self.text = text
        self.position = 0

    def peek(self) -> str:
        """The next character that is not white space, or the empty string at the end."""
        text, position = self.text, self.position
        character = text[position : position + 1]
        if character and character in " \t\n\r":
            match = _SPACE.match(text, position)
            self.position = position = match.end() if match else position
            character = text[position : position + 1]
        return character

    def expect(self, character: str) -> None:
        """Step over `character`; raises ScanError if another is next."""
        if self.peek() != character:
            raise ScanError(f"expected {character!r}", self.position)
        self.position += 1

    def string(self) -> str:
        """Step over a string and return it; raises ScanError if there is none. Half surrogate pairs pass."""
        if self.peek() != '"':
            raise ScanError("expected a string", self.position)
        try:
            value, self.position = _STRING.raw_decode(self.text, self.position)
        except JSONDecodeError as error:
            raise ScanError("expected a well-formed string", error.pos) from error
        return str(value)

    def array_text(self) -> str:
        """Step over an array without arrays or strings inside and return what is between its brackets."""
        if self.peek() != "[":
            raise ScanError("expected a list", self.position)
        end = self.text.find("]", self.position, self.position + MAX_ARRAY)
        if end < 0:
            raise ScanError(f"expected a list of at most {MAX_ARRAY:,} characters", self.position)
        inside = self.text[self.position + 1 : end]
        self.position = end + 1
        return inside

    def members(self) -> Iterator[str]:
        """Step through an object: yields each key, expects the caller to step over the value before the next."""
        self.expect("{")
        if self.peek() == "}":
            self.position += 1
            return
        while True:
            key = self.string()
            self.expect(":")
            yield key
            if self.peek() == ",":
                self.position += 1
                continue
            self.expect("}")
            return

    def end(self) -> None:
        """Raises ScanError unless only white space is left."""
        if self.peek():
            raise ScanError("expected nothing more", self.position)
