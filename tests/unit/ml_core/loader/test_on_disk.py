import gc
from pathlib import Path

import numpy as np
import pytest

from ml_core.data_loader import on_disk


def mapped_files() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "tickwise-" in line or "/#" in line]


def test_an_array_on_disk_is_the_same_array_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(on_disk, "ROWS_AT_ONCE", 7)
    values = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    before = len(mapped_files())

    copy = on_disk.moved(values)

    assert copy.tobytes() == values.tobytes()
    assert copy.dtype == np.float32
    assert not any(tmp_path.iterdir())
    del copy
    gc.collect()
    assert len(mapped_files()) == before
