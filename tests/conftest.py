"""What all tests share."""

import os

# Operations are timed for up to three seconds at a first start; only the tests of that need it (they say so).
os.environ.setdefault("ANYHOST_PROBE_SECONDS", "0")
