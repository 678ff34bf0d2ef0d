import pytest

from api.cli.ranges import asked_for
from data_io.data_fetcher.source_text import time_ns
from ml_core.errors import InputError
from model_ops_manager.parity import Arrival


@pytest.mark.parametrize("text", ["2026-11-29", "2026-11-29T10:00", "2026-11-29T10:00:00.123+02:00"])
def test_a_time_of_arrival_is_read_as_every_other_time(text) -> None:
    assert asked_for(None, text, None) == Arrival(time_ns(text) // 10**6, None)


@pytest.mark.parametrize("text", ["noon", "1969-12-31"])
def test_what_is_no_time_is_told_with_its_option(text) -> None:
    with pytest.raises(InputError, match=f"--to: '{text}'"):
        asked_for(None, None, text)
