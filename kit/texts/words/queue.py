"""Words of waiting, many users and what is held in memory: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    "queue.place": ("{place} in line", "排队第 {place} 位"),
    "queue.place_and_time": ("{place}, about {seconds}", "{place}，约 {seconds} 后开始"),
    "queue.total": ("{total} waiting", "共 {total} 个请求在等待"),
    "queue.overdue": (
        "The request being computed takes longer than predicted; this one follows when it ends.",
        "正在计算的请求用时超出预计，结束后会按顺序继续。",
    ),
    "queue.full": (
        "{waiting} requests are waiting and {limit} may: try again in about {seconds}",
        "已有 {waiting} 个请求在排队，上限为 {limit} 个：请约 {seconds} 后再试",
    ),
    "fact.corrected": (
        "predicted {before}; {runs} runs here say {after}",
        "原预计 {before}；按本机 {runs} 次运行修正为 {after}",
    ),
    "fact.corrected_one": (
        "predicted {before}; one run here says {after}",
        "原预计 {before}；按本机一次运行修正为 {after}",
    ),
    "fact.confirmed": ("confirmed by {runs} runs here", "已由本机 {runs} 次运行证实"),
    "fact.confirmed_one": ("confirmed by one run here", "已由本机一次运行证实"),
    "bundle.save": ("Save report bundle", "保存报告包"),
    "bundle.words": (
        "The machine, the wishes, the plan and what became of it, to be replayed elsewhere. No pictures, no words of "
        "yours and no names of files are in it.",
        "包含机器信息、要求、计划及运行经过，可在别处重放；不含您的图片、文字和文件名。",
    ),
    "kept.words": ("Finished before that: {what}.", "此前已完成：{what}。"),
    "kept.pictures": ("{done} of {total} pictures, shown below", "{total} 张图片中的 {done} 张，见下方"),
    "kept.frames": ("{done} frames, shown below", "{done} 帧，见下方"),
    "kept.finding_faces": ("the face was found", "已找到人脸"),
    "kept.denoising": ("some of the steps", "部分去噪步"),
    "kept.draw": ("the picture drawn from words", "按文字画出的图片"),
    "kept.cut_out": ("the cut-out", "抠图"),
    "kept.views": ("the six views", "六个视图"),
    "kept.reconstruct": ("the reconstructed field", "重建的场"),
    "kept.surface": ("the surface", "表面"),
    "kept.simplify": ("the mesh", "网格"),
    "kept.texture": ("the texture", "纹理"),
}
STAGES: dict[str, tuple[str, str]] = {}
REPORT: dict[str, tuple[str, str]] = {
    "replay_head": ("{title}, planned on {machine}", "{title}，规划所用机器：{machine}"),
    "replay_took": (
        "it took {seconds}; one batch was predicted to take {predicted}",
        "用时 {seconds}；每批预计 {predicted}",
    ),
    "replay_error": ("it ended with {error}", "因错误结束：{error}"),
    "replay_was": ("as it was", "当时"),
    "replay_now": ("now", "现在"),
    "replay_only_then": ("decided then and not now:", "当时有、现在没有的决定："),
    "replay_only_now": ("decided now and not then:", "现在有、当时没有的决定："),
    "replay_identical": ("It reproduces: the plan is the same to the last figure.", "可以重现：计划与当时完全一致。"),
    "replay_same": (
        "It reproduces: the same is run; what differs is predictions or reasons.",
        "可以重现：运行方式相同，只有预测或理由不同。",
    ),
    "replay_differs": (
        "It no longer reproduces: from the same facts something else is run now.",
        "无法再重现：同样的条件现在会得出不同的运行方式。",
    ),
}
