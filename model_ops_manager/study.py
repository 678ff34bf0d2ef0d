"""A study of one pipeline on one data set: its finished trials are kept, and one that was interrupted goes on."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_io import disk
from ml_core.data_processor.dataset import Processed
from ml_core.fit import Progress, try_out
from ml_core.parts import files_of
from ml_core.quantities import parse_range
from ml_core.spec import PipelineSpec
from ml_core.trainer.checkpoint import CheckpointStore
from model_ops_manager.search_space import Trial, search

log = logging.getLogger(__name__)

FORMAT = 1


class StudyFile:
    """Keeps the trials of a study in one file, which is always whole."""

    def __init__(self, path: Path) -> None:
        """Use ``path``; its folder is made on the first ``save``."""
        self._path = path

    def load(self) -> bytes | None:
        """Return what was saved last; None where nothing was."""
        return self._path.read_bytes() if self._path.is_file() else None

    def save(self, data: bytes) -> None:
        """Keep ``data`` in place of what was saved before.

        Raises:
            SourceUnavailableError: The disk did not take it. A retry is safe.
        """
        with disk.whole(self._path) as hidden:
            hidden.write_bytes(data)


def run(
    spec: PipelineSpec,
    processed: Processed,
    store: CheckpointStore,
    *,
    seed: int = 0,
    threads: int = 1,
    told: Callable[[Trial], None] | None = None,
    progress: Callable[[int, Progress], None] | None = None,
) -> list[Trial]:
    """Return the trials of the study of ``spec``; those that ``store`` has of this very study are not run again.

    Trials are judged by validation rows alone. One that was under way begins anew, and is the same then.

    Args:
        spec: The pipeline with its space.
        processed: What ``ml_core.fit.prepare`` made of the ticks.
        store: Where finished trials are kept.
        seed: Of first weights and order of batches, the same in every trial.
        threads: How many a training may use.
        told: Called with every trial in order, kept ones as well; each is kept by then.
        progress: Called with the number of the trial after every epoch.

    Raises:
        SpecError, UnknownPartError: As ``check_space``.
    """
    study = _hash(spec, processed, seed, threads)
    trials = _unpack(store.load(), study)[: spec.tune.trials]
    if told is not None:
        for trial in trials:
            told(trial)

    def fit_once(changed: PipelineSpec, note: Callable[[Progress], None], ended: Callable[[], bool]) -> None:
        def tell(epoch: Progress) -> None:
            note(epoch)
            if progress is not None:
                progress(len(trials), epoch)

        try_out(processed, changed, seed=seed, threads=threads, progress=tell, cancelled=ended)

    def keep(trial: Trial) -> None:
        trials.append(trial)
        store.save(_pack(trials, study))
        if told is not None:
            told(trial)

    return search(spec, fit_once, finished=tuple(trials), told=keep)


def as_toml(values: Mapping[str, Any]) -> str:
    """Return the values of a trial as the sections of a pipeline file.

    >>> print(as_toml({"train.learning_rate": 1e-05, "model.params.hidden": [8]}))
    [model.params]
    hidden = [8]
    <BLANKLINE>
    [train]
    learning_rate = 1e-05
    """
    sections: dict[str, list[str]] = {}
    for name, value in sorted(values.items()):
        section, _, key = name.rpartition(".")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")  # such values read alike in TOML
    return "\n\n".join("\n".join([f"[{section}]", *lines]) for section, lines in sections.items())


def _hash(spec: PipelineSpec, processed: Processed, seed: int, threads: int) -> str:
    """Return the hash of all that trials depend on; how many there are to be is none of it."""
    kinds = parse_range(spec.tune.space["model.kind"]).choices if "model.kind" in spec.tune.space else ()
    own = files_of((*map(str, kinds), spec.model.kind, spec.train.loss or ""), spec.folder)
    asked = spec.model_dump(mode="json", exclude={"tune": {"trials"}})
    text = json.dumps([asked, own, processed.hash, seed, threads], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _pack(trials: Sequence[Trial], study: str) -> bytes:
    return json.dumps({"format": FORMAT, "study": study, "trials": [each._asdict() for each in trials]}).encode()


def _unpack(data: bytes | None, study: str) -> list[Trial]:
    if data is None:
        return []
    try:
        kept = json.loads(data)
        if (kept["format"], kept["study"]) == (FORMAT, study):
            return [Trial(**each) for each in kept["trials"]]
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the trials that were kept are damaged, the study starts afresh: %s", error)
    else:
        log.warning("the trials that were kept are of another study, this one starts afresh")
    return []
