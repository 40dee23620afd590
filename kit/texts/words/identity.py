"""Words of the InstantID tab: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {}
STAGES: dict[str, tuple[str, str]] = {}
