"""Words of the bench page: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {}
STAGES: dict[str, tuple[str, str]] = {}
RULES: dict[str, tuple[str, str]] = {
    "contiguous": (
        "convolutions were timed here: channels_last has {times} times the speed of contiguous ({evidence})",
        "已在本机测量：channels_last 的卷积速度是连续布局的 {times} 倍（{evidence}）",
    ),
    "attention_blocks": (
        "timed here: from {low} to {high} tokens, attention by blocks is at least {times} times as fast as the fused "
        "product",
        "已在本机测量：在 {low} 到 {high} 个词元之间，分块注意力至少比融合实现快 {times} 倍",
    ),
}
