"""What all tests share: how hypothesis searches, what is traced. Other fixtures stand in the file that uses them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples in every run, so that what fails in one place fails in every other; no deadline, because a machine
# under load is not a bug; no database, because a test leaves nothing behind in the checkout.
settings.register_profile("default", derandomize=True, deadline=None, database=None, print_blob=True)
# A search that goes on where the above ends: HYPOTHESIS_PROFILE=search make test
settings.register_profile("search", settings.get_profile("default"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have nothing that happens in the test traced for coverage, neither here nor in a program that it starts.

    For tests that start many programs or run the same lines very often: they take two or three times as long when
    traced, and show no line that others do not show.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    here, threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    sys.settrace(here)
    threading.settrace(threads)
