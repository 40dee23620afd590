"""Words about how a component computes: memory format, attention, packed weights. (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    "weights.packed": ("packed", "已排布"),
    "weights.laid out in every call": ("laid out in every call", "每次调用时重新排布"),
}
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
    "packed": (
        "weights are laid out once, as this processor's kernels read them, and activations computed with them: about "
        "{times} times as fast ({evidence})",
        "权重只排布一次，按本处理器内核读取的顺序，并与激活函数一起计算：约为 {times} 倍速度（{evidence}）",
    ),
    "packing_failed": (
        "a layer with packed weights failed in this session ({detail})",
        "本次会话中，使用已排布权重的层失败过（{detail}）",
    ),
    "packing_quarantined": (
        "a layer with packed weights failed here before ({reason}); left out until PyTorch changes",
        "使用已排布权重的层曾在本机失败（{reason}），在 PyTorch 变更之前不再使用",
    ),
}
EVENTS: dict[str, tuple[str, str]] = {
    "packing_failed": ("a layer with packed weights failed", "使用已排布权重的层失败"),
}
