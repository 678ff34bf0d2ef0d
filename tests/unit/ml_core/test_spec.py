"""Pipeline files: what is wrong is told with the place and what would be right."""

import pytest

from ml_core.errors import SpecError
from ml_core.spec import load, parse

MAP = {"ts": "$.T:ms", "symbol": "$.s", "price": "$.p", "size": "$.q"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "name: Field required"),
        ({"name": "../btc"}, "name: String should match pattern"),
        ({"name": "a\u0000b"}, "name: String should match pattern"),
        ({"name": "x", "retrian": {}}, "retrian: unknown name; did you mean 'retrain'?"),
        ({"name": "x", "label": {"horizon": ["1s"]}}, "label.horizon: unknown name; did you mean 'horizons'?"),
        (
            {"name": "x", "label": {"kind": "directoin"}},
            "label.kind: 'directoin' is not known; did you mean 'direction'?",
        ),
        ({"name": "x", "label": {"horizons": ["10 sek"]}}, "label.horizons.0: '10 sek' is not a duration"),
        (
            {"name": "x", "source": {"map": {**MAP, "sizee": "$.q"}}},
            "source.map.sizee: unknown name; did you mean 'size'?",
        ),
        ({"name": "x", "source": {"map": {**MAP, "ts": "$.T:milli"}}}, "a unit of ns, us, ms or s, such as '$.T:ms'"),
        ({"name": "x", "source": {"topic": "../ticks"}}, "source.topic: String should match pattern"),
        (
            {"name": "x", "predictions": {"format": "arow"}},
            "predictions.format: 'arow' is not known; did you mean 'arrow'?",
        ),
        ({"name": "x", "features": {"gap": "3651d"}}, "features.gap: '3651d' is longer than 3650d"),
        ({"name": "x", "bars": {"by": ["time:1000000d"]}}, "bars.by.0: '1000000d' is longer than 3650d"),
        ({"name": "x", "retrain": {"when": ["evry 6h"]}}, "'rows <count>'; did you mean 'every'?"),
        ({"name": "x", "retrain": {"when": ["drift"]}}, "retrain.when.0: not yet supported: 'drift'"),
        ({"name": "x", "retrain": {"when": ["decay"]}}, "retrain.when.0: not yet supported: 'decay'"),
        (
            {"name": "x", "retrain": {"when": ["every 6h", "rows 9", "every 1h"]}},
            "retrain: not yet supported: 'every 6h' and 'every 1h' together",
        ),
        (
            {"name": "x", "label": {"kind": "return"}, "gate": {"loss": "log_loss"}},
            "gate.loss: not yet supported: 'log_loss' for label.kind = 'return', which is judged by squared_error",
        ),
        ({"name": "x", "gate": {"loss": "squared_error"}}, "for label.kind = 'direction', which is judged by log_loss"),
        ({"name": "x", "gate": {"loss": "logloss"}}, "gate.loss: 'logloss' is not known; did you mean 'log_loss'?"),
        ({"name": "x", "retrain": {"when": ["every 6x"]}}, "retrain.when.0: '6x' is not a duration"),
        ({"name": "x", "retrain": {"when": ["rows 0"]}}, "retrain.when.0: 'rows 0' is not"),
        ({"name": "x", "features": 3}, "features: Input should be"),
        ({"name": "x", "train": {"epochs": "3"}}, "train.epochs: Input should be a valid integer"),
        ({"name": "x", "train": {"learning_rate": "0.1"}}, "train.learning_rate: Input should be a valid number"),
        ({"name": "x", "tune": {"prune": 1}}, "tune.prune: Input should be a valid boolean"),
        ({"name": "x", "label": {"horizons": ["60s", "1m"]}}, "label: horizons: 60s stands there more than once"),
        ({"name": "x", "bars": {"bye": []}}, "bars.bye: unknown name; did you mean 'by'?"),
        ({"name": "x", "bars": {"by": []}}, "bars.by: Tuple should have at least 1 item"),
        ({"name": "x", "bars": {"by": ["tiem:1s"]}}, "bars.by.0: 'tiem:1s' is not 'time:<duration>' or"),
        ({"name": "x", "bars": {"by": ["tiem:1s"]}}, "; did you mean 'time'?"),
        ({"name": "x", "bars": {"by": ["time:1sek"]}}, "bars.by.0: '1sek' is not a duration"),
        ({"name": "x", "bars": {"by": ["time:8d"]}}, "bars.by.0: 'time:8d': 8d is not within 1ms and 7d"),
        ({"name": "x", "bars": {"by": ["ticks:1.5"]}}, "'1.5' is not a whole number below 1e9"),
        ({"name": "x", "bars": {"by": ["volume:0.0"]}}, "'0.0' is not a number above 0"),
        ({"name": "x", "bars": {"by": ["time:60s", "time:1m"]}}, "bars: time:60s and time:1m are the same bars"),
        ({"name": "x", "bars": {"by": ["value:5"], "price": "mid"}}, "bars: 'value:5' needs trades"),
        ({"name": "x", "bars": {"by": ["ticks:5"], "price": "mids"}}, "bars.price: 'mids' is not known; did you mean"),
        (
            {"name": "x", "source": {"lateness": "9s"}, "bars": {"by": ["time:1s"]}},
            "  bars.by: 'time:1s': source.lateness of 9s reaches back further than 8 bars",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_would_be_right(data, words) -> None:
    with pytest.raises(SpecError) as caught:
        parse(data, name="file.toml")

    assert words in str(caught.value)
    assert str(caught.value).startswith("file.toml:")


@pytest.mark.parametrize(("kind", "loss"), [("direction", "log_loss"), ("return", "squared_error")])
def test_the_loss_that_judges_may_be_named_and_need_not(kind, loss) -> None:
    for gate in ({}, {"loss": loss}):
        spec = parse({"name": "x", "label": {"kind": kind}, "gate": gate})
        assert parse(spec.model_dump(mode="json")) == spec


def test_a_trigger_is_read_as_period_and_count() -> None:
    retrain = parse({"name": "x", "retrain": {"when": ["every 6h", "rows 200000"]}}).retrain

    assert (retrain.every_ns, retrain.rows) == (6 * 3600 * 10**9, 200_000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'name = "caf\xe9"', "cannot read the pipeline file"),
        (b"name = ", "is not valid TOML"),
        (b"", "name: Field required"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, words) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)

    with pytest.raises(SpecError) as caught:
        load(file)

    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path) -> None:
    file = tmp_path / "marked.toml"
    file.write_bytes(b'\xef\xbb\xbfname = "marked"\n')

    assert load(file).name == "marked"
