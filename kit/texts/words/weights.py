"""Words of the weights page: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {}
STAGES: dict[str, tuple[str, str]] = {}
