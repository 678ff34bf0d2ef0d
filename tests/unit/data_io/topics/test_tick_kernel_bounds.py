"""The kernels touch no byte outside of what they are given: on both sides lies a page that must not be touched."""

import ctypes
import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_io.topics import tick_kernel
from data_io.topics.crc32c import crc32c
from data_io.topics.field_map import MappedReader
from data_io.topics.json_scan import SLACK
from data_io.topics.record_walk import Batches, Places, find_records
from data_io.topics.symbol_index import SymbolIndex
from data_io.topics.tick_plan import native_plan
from ml_core.spec import FieldMap
from ml_core.types import SymbolTable

PROT_NONE = 0
ROOT = Path(__file__).parents[4]
STREAMS = FieldMap(ts="$.d.T:ms", symbol="$.d.s", price="$.d.p", size="$.d.q", side="$.d.m:maker", seq="$.d.t")
BY_KEY = FieldMap(ts="$.T", symbol="$key", price="$.p", size="$.q", side="$.x")
TEXTS = {
    "native": [
        b'{"type":"trade","symbol":"ACME-USDT","ts":1723075200000000000,"price":61000.1,"size":0.25e-3,"side":"buy"}',
        b'{"type":"quote","symbol":"A","ts":17,"bid":1.5,"ask":1.5,"bid_size":2,"ask_size":3,"seq":9,"x":[{"y":null}]}',
    ],
    "mapped": [
        b'{"e":"x","d":{"E":17230752.5e1,"s":"ACME-USDT","t":null,"p":"61000.10000000","q":"1e3","T":17,"m":false}}'
    ],
    "by key": [b'{"T":1,"p":"1.5","q":2,"x":"SELL"}'],
}


Place = Callable[[bytes], memoryview]


def guarded(most_bytes: int = mmap.PAGESIZE) -> Place:
    """Return a function that puts bytes between two pages that end the process when they are touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    inner = -(-most_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, inner + 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    view = memoryview(pages)[mmap.PAGESIZE : mmap.PAGESIZE + inner]
    for outer in (start, start + mmap.PAGESIZE + inner):
        assert libc.mprotect(ctypes.c_void_p(outer), mmap.PAGESIZE, PROT_NONE) == 0

    def at_the_end(data: bytes) -> memoryview:
        where = view[len(view) - len(data) :]
        where[:] = data
        return where

    return at_the_end


def cut_anywhere(texts: list[bytes], field_map: FieldMap | None) -> None:
    """Parse records of which the last one is cut or damaged anywhere; the data and the copied tail are guarded."""
    plan = MappedReader(field_map).plan if field_map else native_plan()
    assert plan is not None
    symbols = SymbolIndex().follow(SymbolTable(["ACME-USDT", "A"]))
    data_at, tail_at = guarded(), guarded()
    # Digits behind the last value: whoever reads on is led out of the page.
    tick_kernel._with_slack = lambda tail: np.frombuffer(tail_at(bytes(tail) + b"0" * SLACK), np.uint8)
    rng, taken = np.random.default_rng(3), 0
    for text in texts:
        for kept in range(len(text) + 1):
            for last in (text[:kept], text[:kept] + b"0" * 7, damaged(text[:kept], rng)):
                for before in ([], texts * 2):
                    taken += tick_kernel.parse(*laid_out(data_at, [*before, last]), plan, symbols).taken_N.sum()
    assert taken > 4 * len(texts)


def laid_out(at_the_end: Place, values: list[bytes]) -> tuple[memoryview, Places]:
    """Return records as close to each other as they can lie in a batch; what is not key or value is not looked at."""
    # length, attributes, time, offset, length of the key; the key; length of the value; the value; count of headers
    data, at_N = b"", []
    for value in values:
        at_N.append(len(data) + 7)
        data += bytes(5) + b"A" + b"\x01" + value + b"0"
    n = len(values)
    value_at_N, value_len_N = np.array(at_N), np.array([len(value) for value in values])
    key_at_N, key_len_N, none_N = value_at_N - 2, np.ones(n, np.int64), np.zeros(n, np.int64)
    typed_N, count_N = np.zeros(n, np.uint8), np.zeros(n, np.int32)
    places = Places(none_N, key_at_N, key_len_N, value_at_N, value_len_N, none_N, count_N, typed_N)
    return at_the_end(data), places


def damaged(text: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(text)
    for at in rng.integers(0, max(1, len(changed)), 3)[: len(changed)]:
        changed[at] = int(rng.choice(list(b'{}[]",:\\0129.eE+-tfn \x00\xff')))
    return bytes(changed)


def cut_batches() -> None:
    """Walk over records of a batch that is cut or damaged anywhere, and sum them."""
    at_the_end = guarded()
    data = b"".join(
        bytes([len(body) * 2]) + body for body in (b"\0\0\0\1\6abc\0", b"\0\0\2\2k\4ab\2\6tag\1", b"\0\0\4\1\1\0")
    )
    rng, found = np.random.default_rng(4), 0
    for kept in range(len(data) + 1):
        for text in (data[:kept], *(damaged(data[:kept], rng) for _ in range(20))):
            whole = np.frombuffer(at_the_end(text), np.uint8)
            columns = (np.array([value]) for value in (0, len(text), 0, 2, 3))
            found += find_records(Batches(whole, *columns), 0) is not None
            crc32c(memoryview(whole))
    assert found


USES: dict[str, Callable[[], None]] = {
    "batches": cut_batches,
    "native": lambda: cut_anywhere(TEXTS["native"], None),
    "mapped": lambda: cut_anywhere(TEXTS["mapped"], STREAMS),
    "by key": lambda: cut_anywhere(TEXTS["by key"], BY_KEY),
}


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does")
@pytest.mark.parametrize("name", list(USES))
def test_no_byte_outside_is_touched(name: str) -> None:
    run = [sys.executable, "-m", "tests.unit.data_io.topics.test_tick_kernel_bounds", name]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


if __name__ == "__main__":
    USES[sys.argv[1]]()
