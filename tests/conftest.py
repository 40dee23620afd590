"""What all tests share."""

import gc
import os

# Operations are timed for up to three seconds at a first start; only the tests of that need it (they say so).
os.environ.setdefault("ANYHOST_PROBE_SECONDS", "0")


def pytest_collection_finish() -> None:
    """What importing made stays: looking through it at each ``gc.collect()`` took a quarter of the tests' time."""
    gc.freeze()
