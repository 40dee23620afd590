"""Words of the Hunyuan3D-1 tab: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {}
STAGES: dict[str, tuple[str, str]] = {}
