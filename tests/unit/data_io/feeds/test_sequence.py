from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from data_io.feeds.sequence import Duplicate, Hole, judge, missing

IDS = st.lists(st.integers(0, 40), max_size=60)


@given(IDS)
def test_each_id_up_to_the_newest_is_there_once_or_in_one_hole_or_before_the_first(ids: list[int]) -> None:
    last, given_out, holes = None, [], []
    for each in ids:
        wrong = judge(last, each)
        if isinstance(wrong, Duplicate):
            assert last is not None
            assert each <= last
            continue
        if isinstance(wrong, Hole):
            holes.append(wrong)
        given_out.append(each)
        last = each

    in_holes = [i for hole in holes for i in range(hole.first, hole.last + 1)]
    assert all(hole.ids > 0 for hole in holes)
    assert sorted(given_out + in_holes) == (list(range(ids[0], last + 1)) if last is not None else [])


@given(st.integers(0, 30), st.integers(0, 30), st.sets(st.integers(-5, 40)))
def test_what_is_missing_of_a_hole_is_what_was_not_found_in_as_few_pieces_as_possible(
    first: int, length: int, found: set[int]
) -> None:
    hole = Hole(first, first + length)

    pieces = missing(hole, found)

    ids = [i for piece in pieces for i in range(piece.first, piece.last + 1)]
    assert ids == [i for i in range(hole.first, hole.last + 1) if i not in found]
    assert all(a.last + 1 < b.first for a, b in pairwise(pieces))
