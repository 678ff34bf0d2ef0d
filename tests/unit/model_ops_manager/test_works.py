"""Each kind of job has a work, and the work can be imported."""

import importlib

import pytest

from ml_core.types import JobKind
from model_ops_manager.jobs.training import WORKS
from model_ops_manager.jobs.works.base import Work


@pytest.mark.parametrize("kind", JobKind)
def test_every_kind_of_job_has_a_work(kind):
    module, _, name = WORKS[kind].partition(":")
    assert issubclass(getattr(importlib.import_module(module), name), Work)
