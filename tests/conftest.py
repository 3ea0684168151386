"""What all tests share: how hypothesis searches. Fixtures stand in the file that uses them."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples in every run, so that what fails in one place fails in every other; no deadline, because a machine
# under load is not a bug; no database, because a test leaves nothing behind in the checkout.
settings.register_profile("default", derandomize=True, deadline=None, database=None, print_blob=True)
# A search that goes on where the above ends: HYPOTHESIS_PROFILE=search make test
settings.register_profile("search", settings.get_profile("default"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
