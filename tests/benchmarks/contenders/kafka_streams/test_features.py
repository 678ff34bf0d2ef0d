"""What the Java contender computes equals what the kernel computes.

usage: pytest -o addopts= tests/benchmarks/contenders/kafka_streams/test_features.py
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_io.data_fetcher.sources import open_source
from data_io.topics import ticks
from data_io.topics.records import Records
from ml_core import frames
from ml_core.data_processor import features
from ml_core.data_processor.features import FeaturePlan, FeatureState
from ml_core.spec import load
from ml_core.types import RowFlag, SymbolTable
from tests.benchmarks.contenders.kafka_streams import build

ROOT = Path(__file__).parents[4]
PIPELINE = Path(__file__).parents[2] / "pipeline.toml"
TICKS = 100_000
BUILD_S = build.BUILD_S + 60

pytestmark = [
    pytest.mark.skipif(build.missing() is not None, reason=f"the contender cannot run: {build.missing()}"),
    pytest.mark.timeout(BUILD_S),
]


@pytest.fixture(scope="module")
def built() -> Path:
    return build.build(ROOT / ".bench")


def test_flags_and_features_of_a_market_equal_those_of_the_kernel(built: Path) -> None:
    market = open_source(f"synthetic:symbols=100,ticks={TICKS},rate=2000,seed=11")
    values = [value for batch in market.stream() for _, value in ticks.encode(batch)]

    lines = ask(built, "features", [value.decode() for value in values])

    assert len(lines) == TICKS
    compare(values, lines, flags=RowFlag.WARM_UP)


def test_flags_and_features_of_a_market_with_faults_equal_those_of_the_kernel(built: Path) -> None:
    market = open_source("synthetic:symbols=20,ticks=40000,rate=200,seed=5")
    values = faulty(market.fetch(), np.random.default_rng(3))

    lines = ask(built, "features", [value.decode() for value in values])

    compare(values, lines, flags=RowFlag.WARM_UP | RowFlag.GAP | RowFlag.STALE | RowFlag.LATE | RowFlag.AHEAD)
    assert lines.count("duplicate") > 100
    assert lines.count("bad") > 100


def test_a_score_is_written_as_the_shortest_decimal_that_reads_back(built: Path) -> None:
    rng = np.random.default_rng(7)
    usual_N = (rng.standard_normal(50_000) * 10.0 ** rng.integers(-4, 4, 50_000)).astype(np.float32)
    any_N = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    round_N = np.array([0.0, -0.0, 1.0, -1.5, 0.1, 0.001, 0.25, 10.0, 123456.0, 999999.94, 1e6, 3.4e38])
    value_N = np.concatenate([usual_N, any_N[np.isfinite(any_N)], round_N.astype(np.float32)])

    texts = ask(built, "floats", [str(bits) for bits in value_N.view(np.int32).tolist()])

    assert np.array([json.loads(text) for text in texts]).astype(np.float32).tobytes() == value_N.tobytes()
    shortest = [len(digits(np.format_float_scientific(value, unique=True))) for value in value_N]
    assert [len(digits(text)) for text in texts] == shortest


def faulty(market: Any, rng: np.random.Generator) -> list[bytes]:
    """Return ticks of ``market`` as JSON: late, repeated, with holes, one-sided in kind, and in many a layout."""
    n = len(market)
    ts_ns_N = market["ts_ns"].to_numpy().copy()
    ts_ns_N += np.where(np.arange(n) > n // 3, 90 * 10**9, 0)  # silence of all
    ts_ns_N -= np.where(rng.random(n) < 0.02, rng.integers(0, 3 * 10**9, n), 0)  # late
    ts_ns_N += np.where((np.arange(n) > n // 2) & (np.arange(n) < n // 2 + 60), 3600 * 10**9, 0)  # a wrong clock
    side_N = np.where(rng.random(n) < 0.3, 0, market["side"])
    seq_N = np.where(rng.random(n) < 0.1, -1, market["seq"])
    symbol_N = market["symbol"].cat.codes.to_numpy()
    is_kept_N = ~((symbol_N == 3) & (market["type"] == "quote")) & ~((symbol_N == 4) & (np.arange(n) > 4000))
    is_kept_N &= ~((symbol_N == 5) & (market["type"] == "quote") & (np.arange(n) % 8000 > 2000))  # stale quotes
    changed = market.assign(ts_ns=ts_ns_N, side=side_N.astype(np.int8), seq=seq_N)[is_kept_N]
    values: list[bytes] = []
    for value in (value for _, value in ticks.encode(frames.to_batch(changed))):
        text = value.decode()
        match rng.integers(0, 40):
            case 0:
                values.append(text.encode())  # and once more below
            case 1:
                text = json.dumps(json.loads(text))
            case 2:
                text = json.dumps(dict(reversed(json.loads(text).items())))
            case 3:
                text = text[:-1] + ',"venue":"X"}'
            case 4:
                text = text.replace('"symbol":"S', '"symbol":"\\u0053')
            case 5:
                text = text.replace('"buy"', "1").replace('"sell"', "-1")
            case 6:
                values.append(text[: rng.integers(1, len(text))].encode())
            case 7:
                values.append(text.replace('"price":', '"price":-').replace('"ask":', '"ask":-').encode())
            case 8:
                text = text.replace(',"seq"', ',"bid":1e2,"seq"') if '"trade"' in text else text
        values.append(text.encode())
    return values


def compare(values: Sequence[bytes], lines: Sequence[str], *, flags: int) -> None:
    """Compare what the contender said with the kernel, and require that all of ``flags`` occur."""
    plan = FeaturePlan.from_spec(load(PIPELINE))
    state = FeatureState(plan, SymbolTable())
    none: list[bytes | None] = [None] * len(values)
    batch, rejects = ticks.TickDecoder().decode(
        Records(list(range(len(values))), none, [*values], [()] * len(values)), state.symbols
    )
    rows = features.step(batch, state)
    made = [i for i, line in enumerate(lines) if line not in ("bad", "duplicate")]
    assert {i for i, line in enumerate(lines) if line == "bad"} == {reject.position for reject in rejects}
    assert made == rows.offset_N.tolist()
    found = [lines[i].split() for i in made]
    assert [int(words[0]) for words in found] == rows.flags_N.tolist()
    x_NF = np.array([words[1:] for words in found], np.float32)
    np.testing.assert_allclose(x_NF, rows.x_NF, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert np.isfinite(x_NF).mean() > 0.8
    assert np.bitwise_or.reduce(rows.flags_N) == flags


def ask(built: Path, what: str, lines: list[str]) -> list[str]:
    command = [*build.command(built, "SelfCheck"), what]
    done = subprocess.run(
        command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def digits(text: str) -> str:
    return text.lower().partition("e")[0].replace(".", "").replace("-", "").strip("0")
