from importlib.metadata import version

from data_io.topics import dead_letters, record_batch
from data_io.topics.letters import MAX_BYTES, MAX_PART_BYTES
from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.record_batch import BATCH_BYTES, join, seal
from data_io.topics.records import Records, Reject
from streams.transport.outputs import RECORD_BYTES


def test_a_dead_letter_keeps_the_record_and_says_where_it_came_from() -> None:
    original = (("trace", b"\x00\xff"), ("empty", None))
    records = Records([7, 9], [b"a", b"\xffkey"], [b"x", b"\x00bad"], [(), original])
    reject = Reject(position=1, index=4, reason="missing:price", detail="there is no price")

    key, value, headers = dead_letters.encode(reject, records, "md.ticks", 3)

    assert (key, value) == (b"\xffkey", b"\x00bad")
    assert headers == [
        *original,
        ("tickwise.dlq.reason", b"missing:price"),
        ("tickwise.dlq.detail", b"there is no price"),
        ("tickwise.dlq.topic", b"md.ticks"),
        ("tickwise.dlq.partition", b"3"),
        ("tickwise.dlq.offset", b"9"),
        ("tickwise.dlq.index", b"4"),
        ("tickwise.dlq.version", version("tickwise").encode()),
    ]


def test_a_tombstone_without_key_stays_one() -> None:
    records = Records([0], [None], [None], [()])
    assert dead_letters.encode(Reject(0, 0, "null_value", "no value"), records, "t", 0)[:2] == (None, None)


def test_a_detail_that_has_no_utf8_is_escaped() -> None:
    records = Records([0], [None], [b""], [()])
    _, _, headers = dead_letters.encode(Reject(0, 0, "bad_symbol", "\ud800"), records, "t", 0)
    assert dict(headers)["tickwise.dlq.detail"] == b"\\ud800"


def test_a_value_that_no_broker_would_take_is_cut_and_says_so() -> None:
    value = b"x" * (MAX_BYTES + 1)
    records = Records([0], [None], [value], [()])

    _, kept, headers = dead_letters.encode(Reject(0, 0, "too_large", "too large"), records, "t", 0)

    assert kept == value[:-1]
    assert dict(headers)["tickwise.dlq.cut-from"] == b"3500001"


def test_key_headers_and_value_of_a_record_that_no_broker_would_take_are_cut_and_say_so() -> None:
    kept = [("trace", b"t"), ("half", b"h" * (MAX_PART_BYTES - 50))]
    headers = (*kept, ("large", b"l" * 1_000), ("last", b""))
    records = Records([0], [b"k" * (MAX_PART_BYTES + 1)], [b"v" * MAX_BYTES], [headers])

    key, value, found = dead_letters.encode(Reject(0, 0, "too_large", "too large"), records, "t", 0)

    assert (key, found[:2], found[2][0]) == (b"k" * MAX_PART_BYTES, kept, "tickwise.dlq.reason")
    assert value is not None
    before = record_batch.headers(kept)
    assert len(key) + len(value) + len(before) == MAX_BYTES
    sizes = {"key": MAX_PART_BYTES + 1, "headers": len(record_batch.headers(headers)), "value": MAX_BYTES}
    names = ("cut-key-from", "cut-headers-from", "cut-from")
    assert found[-3:] == [
        (f"tickwise.dlq.{name}", str(size).encode()) for name, size in zip(names, sizes.values(), strict=True)
    ]


def test_a_large_key_and_large_headers_that_a_broker_would_take_are_kept() -> None:
    headers = (("large", b"l" * 1_500_000),)
    records = Records([0], [b"k" * 1_500_000], [b"v"], [headers])
    key, value, found = dead_letters.encode(Reject(0, 0, "bad_json", "no object"), records, "t", 0)
    assert (key, value, found[:1]) == (b"k" * 1_500_000, b"v", list(headers))
    assert not any("cut" in name for name, _ in found)


def test_packed_letters_are_the_encoded_ones_in_order() -> None:
    traced = (("trace", b"\x00\xff"), ("empty", None), ("tickwise.dlq.reason", b"of an earlier time"))
    of_each = [
        (b"S0", b'{"price":0}', (), Reject(0, 0, "not_positive:price", "price is 0.0")),
        (b"S1", b'{"price":0}', (), Reject(0, 0, "not_positive:price", "price is 0.0")),
        (b"", b"", (), Reject(0, 0, "empty_value", "the value has no bytes")),
        (None, b"{", traced, Reject(0, 70_000, "bad_json", "\ud800 is half of a pair, \u20ac is not")),
        (b"\xff", None, traced, Reject(0, 3, "null_value", "x" * 5_000)),
        (b"S2", b"y" * (MAX_BYTES + 1), (), Reject(0, 0, "too_large", "too large")),
        (b"k" * (MAX_BYTES + 1), b"", (), Reject(0, 0, "too_large", "too large")),
        (b"S3", b"{", (("h", b"h" * MAX_BYTES),), Reject(0, 0, "bad_json", "no object")),
        *((b"S%d" % n, b"z" * n, (), Reject(0, 0, f"reason:{n}", str(n))) for n in range(1_500)),
    ]
    keys, values, headers, rejects = zip(*of_each, strict=True)
    offsets = [3 * n + 10**12 for n in range(len(keys))]
    rejects = [reject._replace(position=n) for n, reject in enumerate(rejects)]
    records = Records(offsets, list(keys), list(values), list(headers))

    found = []
    batches = join(dead_letters.contents(rejects, records, "md.ticks", 3))
    for batch in batches:
        seal(batch, producer_id=-1, epoch=-1, sequence=-1, transactional=False)
        read, _ = unpack(RawFetch(batch.data.tobytes(), 0, []))
        found += list(zip(read.key, read.value, map(list, read.headers), strict=True))

    assert found == [dead_letters.encode(reject, records, "md.ticks", 3) for reject in rejects]
    assert [batch.records for batch in batches if len(batch.data) > BATCH_BYTES] == [1]
    assert max(len(batch.data) for batch in batches) <= RECORD_BYTES


def test_no_letters_make_no_batch() -> None:
    assert join(dead_letters.contents([], Records([], [], [], []), "t", 0)) == []
