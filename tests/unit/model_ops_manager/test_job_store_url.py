"""A job store is one of two databases, and its password is nobody's."""

import pytest

from ml_core.errors import InvalidSettingsError
from model_ops_manager.jobs.store import JobStore


@pytest.mark.parametrize("url", ["mysql://user:s3cret@host/db", "nonsense s3cret", "sqlite://"])
def test_other_databases_are_refused_without_showing_the_password(url):
    with pytest.raises(InvalidSettingsError) as caught:
        JobStore(url)
    assert "s3cret" not in str(caught.value)
