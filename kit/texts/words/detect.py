"""Words of the DAMO-YOLO tab: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    # every tab
    "action.stopping": ("Stopping…", "正在停止…"),
}
STAGES: dict[str, tuple[str, str]] = {}
