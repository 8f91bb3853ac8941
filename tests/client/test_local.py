from pathlib import Path

from registry.client._hashing import Piece
from registry.client._local import LocalSegments, Location

A, B = "a" * 64, "b" * 64


def test_a_segment_is_found_where_it_was_said_to_lie():
    known = LocalSegments()
    known.add(Path("one"), [Piece(0, 10, A), Piece(10, 5, B)])
    assert known.find(B, 5) == (Location(Path("one"), 10, 5),)
    assert len(known) == 2


def test_an_unknown_segment_has_no_place():
    assert LocalSegments().find(A, 1) == ()


def test_a_place_of_another_size_is_not_the_segment():
    known = LocalSegments()
    known.add(Path("one"), [Piece(0, 10, A)])
    assert known.find(A, 11) == ()


def test_a_place_that_was_wrong_is_forgotten_and_the_others_stay():
    known = LocalSegments()
    known.add(Path("one"), [Piece(0, 10, A)])
    known.add(Path("two"), [Piece(7, 10, A)])
    known.forget(A, Location(Path("one"), 0, 10))
    assert known.find(A, 10) == (Location(Path("two"), 7, 10),)
    known.forget(A, Location(Path("two"), 7, 10))
    known.forget(A, Location(Path("two"), 7, 10))
    assert len(known) == 0
