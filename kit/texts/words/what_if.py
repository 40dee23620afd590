"""Words of the what-if page: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {}
STAGES: dict[str, tuple[str, str]] = {}
