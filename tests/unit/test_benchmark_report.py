"""What the benchmark's page says is what was measured, and says where something was not."""

import json

import pytest

from tests.benchmarks import page, report, suite
from tests.benchmarks.open_loop import Load
from tests.benchmarks.suite import Plan, Suite

MOMENT = {"at": "10:00:00", "load": [0.1, 0.2, 0.3], "empty_loop_us": 13.0}
ABOUT = {
    "day": "2026-01-02", "command": "bench", "machine": "x86_64, 2 cores, some", "system": "Linux", "before": MOMENT,
    "after": MOMENT | {"empty_loop_us": 25.0}, "versions": {"java": "17"}, "commit": "abc",
}  # fmt: skip


def drained(*ticks_per_s: float, cpu: float = 1.0) -> list[dict[str, float]]:
    return [{"ticks_per_s": each, "cpu_s_per_million": cpu, "rss_mb": 300.0} for each in ticks_per_s]


def load(rate: float, growth: float, sent: float = 1.0) -> list[dict[str, float]]:
    return [Load(rate, rate * sent, growth, 10)._asdict()]


LOADS = {
    "tickwise at 90%": load(900.0, 0.2),
    "tickwise at 80%": load(800.0, -0.001),
    "tickwise at 70%": load(700.0, 0.0),
    "plain_loop best at 90%": load(90.0, 0.0, sent=0.5),
    "plain_loop best at 80%": load(80.0, 0.001),
    "bytewax best at 50%": load(50.0, 0.3),
}


def test_sustained_is_the_highest_rate_at_which_lag_did_not_grow_and_the_sender_kept_up():
    assert report.sustained(LOADS) == {"tickwise": 800.0, "plain_loop best": 80.0}


def test_sustained_rates_are_among_the_figures_with_their_ratio():
    result = report.summary({"throughput": {"tickwise": drained(1000.0)}, "load": LOADS}, {}, ABOUT)
    assert (result["sustained_ticks_per_s"], result["sustained_ratio_to"]) == (800.0, {"plain_loop": 10.0})


def test_a_contender_that_failed_is_compared_in_the_turns_it_went_through_and_n_says_how_many():
    runs = {"throughput": {"tickwise": drained(900.0, 800.0, 100.0), "bytewax best": drained(100.0, 200.0)}}
    result = report.summary(runs, {"throughput bytewax best": "run 3 failed: gone"}, ABOUT)
    assert (result["ratio_to"], result["n"]) == (
        {"bytewax": 6.5},
        {"ticks_per_s": 3, "cpu_s_per_million": 3, "rss_mb": 3, "ratio_to": {"bytewax": 2}},
    )
    target = next(each for each in page.targets(result) if "best Python engine" in each.what)
    assert (target.what, target.row[1:4]) == ("ratio to the best Python engine (bytewax)", ("6.5 x", "2", "at least 6"))


def test_the_p99_of_http_is_that_of_callers_that_do_not_wait():
    found = {
        "single_latency_ms_p99": 6.0,
        "single_latency_ms_p99_at_3000_per_s": 20.0,
        "runs": {"single": {"per_s": [1, 2]}},
    }
    targets = page.targets(report.summary({"http": {"": [found]}}, {}, ABOUT))
    assert [(each.value, each.n, each.verdict) for each in targets if "p99 at 3,000" in each.what] == [
        (20.0, 2, "**missed**: 33% above")
    ]


def test_what_was_not_measured_is_said_of_every_figure():
    targets = page.targets(report.summary({}, {}, ABOUT))
    assert {each.verdict for each in targets} == {"not measured"}


def test_a_page_has_remarks_below_its_figures_and_the_share_of_the_core():
    runs = {"throughput": {"tickwise": drained(800_000.0, cpu=1.2)}, "load": LOADS}
    result = json.loads(json.dumps(report.summary(runs, {"http": "run 1 failed: gone\nand more"}, ABOUT)))
    text = page.text(result, remarks="## Why\n\nBecause.\n")
    assert text.index("## Why\n\nBecause.\n\n") < text.index("## Throughput")
    assert "| tickwise | 800,000 | 1.2 | 96% | 300 | 1 |" in text
    assert "| bytewax best | none of those below |  | 1 |" in text
    assert "- http: run 1 failed: gone\n" in text
    assert "13.0 us before and 25.0 us after" in text


def test_every_turn_has_all_contenders_and_the_orders_are_the_same_in_every_benchmark():
    orders = list(suite.turns("abcdef", 5))
    assert {"".join(sorted(order)) for order in orders} == {"abcdef"}
    assert len({"".join(order) for order in orders}) > 1
    assert list(suite.turns("abcdef", 5)) == orders


@pytest.fixture
def asked(monkeypatch) -> list[float]:
    """Shares of the drained rate that are offered to a contender that keeps up with 650 of 1,000 ticks/s."""
    shares: list[float] = []

    async def offer(*_: object, rate: float, seconds: float) -> Load:
        shares.append(rate / 1000)
        return Load(rate, rate, max(0.0, rate / 650 - 1), 10)

    monkeypatch.setattr("tests.benchmarks.open_loop.load", offer)
    return shares


class NoArena:
    def work(self, count: int) -> None:
        """Nothing is sent."""


async def test_less_and_less_is_offered_until_it_is_sustained(asked):
    plan = Plan(1, 1, 1.0, 1.0, ("tickwise",), ("best",), 1)
    measured = Suite(NoArena(), plan)
    measured.found["throughput"] = {"tickwise": drained(1000.0)}
    await measured.loads()
    assert asked == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert report.sustained(measured.found["load"]) == pytest.approx({"tickwise": 600.0})
