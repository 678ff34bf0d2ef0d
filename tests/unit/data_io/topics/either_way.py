"""Decodes the same records with the kernel and with the exact decoder, and asserts that both give the same."""

from collections.abc import Sequence

from data_io.topics.raw_records import RawFetch, unpack
from data_io.topics.ticks import Decoded, TickDecoder
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable


def both(fetch: RawFetch, known: Sequence[str], field_map: FieldMap | None = None) -> Decoded:
    """Return what the kernel path gives, after asserting that the exact decoder gives the same."""
    decoder, fast_symbols, exact_symbols = TickDecoder(field_map), SymbolTable(known), SymbolTable(known)
    fast = decoder.decode_fetch(fetch, fast_symbols)
    records, next_offset = unpack(fetch)
    ticks, rejects = decoder.decode(records, exact_symbols)
    for name, a, b in zip(ticks._fields, fast.ticks, ticks, strict=True):
        assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes()) if name != "symbols" else a == b, name
    named = [(fast.reject_records.offset[r.position], *r[1:]) for r in fast.rejects]
    assert named == [(records.offset[r.position], *r[1:]) for r in rejects]
    assert fast.next_offset == next_offset
    return fast
