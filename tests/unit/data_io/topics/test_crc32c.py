import pytest
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from data_io.topics import crc32c


@given(seed=st.binary(min_size=1, max_size=40), length=st.integers(0, 20_000), start=st.integers(0, 9))
def test_the_checksum_is_that_of_aiokafka(seed: bytes, length: int, start: int) -> None:
    data = memoryview((seed * (length // len(seed) + 1))[:length])[start:]
    assert crc32c.crc32c(data) == calc_crc32c(data)


def test_a_processor_without_the_instruction_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 30
    expected = crc32c.crc32c(data)
    monkeypatch.setattr(crc32c, "_HAS_INSTRUCTION", False)
    assert crc32c.crc32c(data) == expected
