from hypothesis import given
from hypothesis import strategies as st

from data_io.topics.label_counts import LabelCount
from streams.agents.learning import Totals

counts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000)), max_size=30)


@given(seen=counts)
def test_counts_are_absolute_so_repeated_and_late_ones_change_nothing(seen) -> None:
    totals = Totals()
    steps = [totals.step(LabelCount("p", "t", partition, labelled), 100) for partition, labelled in seen]

    assert steps == sorted(steps)
    newest = {partition: max(n for p, n in seen if p == partition) for partition, _ in seen}
    if seen:
        assert steps[-1] == sum(newest.values()) // 100


def test_pipelines_are_counted_apart() -> None:
    totals = Totals()
    assert totals.step(LabelCount("a", "t", 0, 250), 100) == 2
    assert totals.step(LabelCount("b", "t", 0, 99), 100) == 0


def test_a_topic_that_is_made_anew_is_counted_from_the_beginning() -> None:
    totals = Totals()
    assert totals.step(LabelCount("a", "old", 0, 250), 100) == 2
    assert totals.step(LabelCount("a", "new", 0, 120), 100) == 1
