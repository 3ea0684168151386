"""What all tests share: how hypothesis searches, what is traced. Other fixtures stand in the file that uses them."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples in every run, so that what fails in one place fails in every other; no deadline, because a machine
# under load is not a bug; no database, because a test leaves nothing behind in the checkout.
settings.register_profile("default", derandomize=True, deadline=None, database=None, print_blob=True)
# A search that goes on where the above ends: HYPOTHESIS_PROFILE=search make test
settings.register_profile("search", settings.get_profile("default"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no program that the test starts traced for coverage: starting takes twice as long then.

    For tests that start many, and show no line that others do not show.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
