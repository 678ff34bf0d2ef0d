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
        ({"name": "x", "retrain": {"when": ["evry 6h"]}}, "'rows <count>', 'drift' or 'decay'; did you mean 'every'?"),
        ({"name": "x", "retrain": {"when": ["every 6x"]}}, "retrain.when.0: '6x' is not a duration"),
        ({"name": "x", "retrain": {"when": ["rows 0"]}}, "retrain.when.0: 'rows 0' is not"),
        ({"name": "x", "features": 3}, "features: Input should be"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_would_be_right(data, words) -> None:
    with pytest.raises(SpecError) as caught:
        parse(data, name="file.toml")

    assert words in str(caught.value)
    assert str(caught.value).startswith("file.toml:")


def test_a_trigger_is_read_as_period_and_count() -> None:
    retrain = parse({"name": "x", "retrain": {"when": ["every 6h", "rows 200000", "drift"]}}).retrain

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
