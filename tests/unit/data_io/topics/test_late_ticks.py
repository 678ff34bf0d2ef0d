from importlib.metadata import version

from data_io.topics import dead_letters, late_ticks
from data_io.topics.late_ticks import Late
from data_io.topics.letters import MAX_BYTES
from data_io.topics.records import Records


def test_a_late_letter_keeps_the_record_and_says_whence_and_how_late() -> None:
    original = (("trace", b"\x00\xff"), ("empty", None))
    records = Records([7, 9], [None, b"\xffkey"], [b"x", b"\x00late"], [(), original])

    made = late_ticks.encode([Late(7, [0], 1), Late(9, [0, 2, 3, 4], 6_000_000_000)], records, "md.ticks", 3)

    assert [letter[:2] for letter in made] == [(None, b"x"), (b"\xffkey", b"\x00late")]
    assert made[1][2] == [
        *original,
        ("tickwise.late.topic", b"md.ticks"),
        ("tickwise.late.partition", b"3"),
        ("tickwise.late.offset", b"9"),
        ("tickwise.late.index", b"0,2-4"),
        ("tickwise.late.ticks", b"4"),
        ("tickwise.late.late-ns", b"6000000000"),
        ("tickwise.late.version", version("tickwise").encode()),
    ]


def test_a_value_that_no_broker_would_take_is_cut_and_says_so() -> None:
    records = Records([0], [None], [b"x" * (MAX_BYTES + 1)], [()])

    [(_, kept, headers)] = late_ticks.encode([Late(0, [0], 1)], records, "t", 0)

    assert len(kept or b"") == MAX_BYTES
    assert dict(headers)["tickwise.late.cut-from"] == b"3500001"


def test_late_letters_are_kept_as_dead_letters_are() -> None:
    late, dead = late_ticks.topic_spec("t", 3), dead_letters.topic_spec("t", 3)
    assert late.name == "t.late"
    assert late._replace(name=dead.name) == dead
