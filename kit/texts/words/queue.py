"""Words of waiting, many users and what is held in memory: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    "queue.place": ("{position} of {total} waiting", "排队第 {position} 位，共 {total} 个请求在等待"),
    "queue.full": (
        "{waiting} requests are waiting and {limit} may: try again in about {seconds}",
        "已有 {waiting} 个请求在排队，上限为 {limit} 个：请约 {seconds} 后再试",
    ),
    "kept.title": ("What was finished before", "此前已完成的部分"),
}
STAGES: dict[str, tuple[str, str]] = {}
