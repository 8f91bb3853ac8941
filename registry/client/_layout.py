"""Where the segments of an artifact lie, and signed URLs for them, page by page from the server.

A page comes with URLs. They are handed out once; when the engine asks again they have expired, and the page is fetched
anew.
"""

from collections.abc import Mapping, Sequence

from registry.client._api import PAGE, Api, at
from registry.client._download import BadLayoutError
from registry.client._hashing import Piece
from registry.domain.digest import parse_digest
from registry.wire import Page, SegmentOut


class Layout:
    """The segments of one artifact, read from the server as far as they are needed."""

    def __init__(self, api: Api, model: str, number: int, artifact: str) -> None:
        """Nothing is asked yet."""
        self._api = api
        self._path = at("models", model, "versions", number, "segments")
        self._artifact = artifact
        self._cursors: list[str | None] = [None]  # where each page begins; one more than pages until the last is read
        self._pages: list[list[Piece]] = []
        self._page_of: dict[str, int] = {}
        self._urls: dict[str, str] = {}

    def all(self) -> list[Piece]:
        """Every segment, in order. Raises what the server answers."""
        while self._read_next():
            pass
        return self._known()

    def until(self, offset: int) -> list[Piece]:
        """Segments from the start of the artifact to at least `offset`. Raises what the server answers."""
        while (not self._pages or self._end() < offset) and self._read_next():
            pass
        return self._known()

    def sign(self, pieces: Sequence[Piece]) -> Mapping[str, str]:
        """A URL for each piece, by sha256. Raises what the server answers."""
        if any(piece.sha256 not in self._page_of for piece in pieces):
            self.all()  # the pieces are known from an earlier pull
        pages = {self._page_of[piece.sha256] for piece in pieces if piece.sha256 not in self._urls}
        for page in sorted(pages):
            self._read(page)
        return {piece.sha256: self._urls.pop(piece.sha256) for piece in pieces}

    def _known(self) -> list[Piece]:
        return [piece for page in self._pages for piece in page]

    def _end(self) -> int:
        pieces = self._pages[-1]
        return pieces[-1].offset + pieces[-1].size if pieces else 0

    def _read_next(self) -> bool:
        page = len(self._pages)
        if page == len(self._cursors):
            return False
        found = self._read(page)
        pieces = [Piece(each.offset, each.size, parse_digest(each.digest)) for each in found.items]
        self._pages.append(pieces)
        self._page_of.update((piece.sha256, page) for piece in pieces)
        if found.next is not None:
            self._cursors.append(found.next)
        return found.next is not None

    def _read(self, page: int) -> Page[SegmentOut]:
        cursor = self._cursors[page]
        found = self._api.get(self._path, Page[SegmentOut], artifact=self._artifact, urls=1, limit=PAGE, cursor=cursor)
        for each in found.items:
            if each.url is None:
                message = f"The registry gave no URL for byte {each.offset:,} of {self._artifact}."
                raise BadLayoutError(message, artifact=self._artifact)
            self._urls[parse_digest(each.digest)] = each.url
        return found
