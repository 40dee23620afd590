"""Words of settings files, language and figures: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    "language.title": ("Language", "语言"),
    "language.name": ("English", "中文"),
    "language.stop": (".", "。"),
    # bringing settings back
    "settings.title": ("Bring settings back", "恢复设置"),
    "settings.words": (
        "Drop a picture, a video or a JSON file that was saved here: the controls become what they were for it.",
        "把在这里保存过的图片、视频或 JSON 文件拖到下面，各项设置就会恢复成当时的样子。",
    ),
    "settings.file": ("Saved picture or settings file", "保存过的图片或设置文件"),
    "settings.done": ("Brought back from {name}.", "已从 {name} 恢复设置。"),
    "settings.set": ("Set: {what}.", "已设置：{what}。"),
    "settings.nothing": (
        "Nothing had been set: everything was decided by the plan.",
        "当时没有任何设置，一切由计划决定。",
    ),
    "settings.left_out": ("Left out, for it cannot be set here: {what}.", "此处无法设置，已略过：{what}。"),
    "settings.weights": (
        "It was made by {model} {variant}, with {weights}.",
        "当时使用的是 {model} {variant}，权重：{weights}。",
    ),
    "settings.join": ("; ", "；"),
    "option.threshold": ("threshold", "最低把握"),
    "option.iou": ("overlap", "重叠上限"),
    "option.every": ("each how-manieth frame", "每隔几帧"),
    "option.classes": ("names", "名称"),
    "option.camera": ("camera", "相机"),
    "option.fov": ("field of view", "视场角"),
    "option.film_mm": ("35 mm equivalent", "35 mm 等效焦距"),
    # decisions: what is decided upon, units of what spoke against an alternative, and reasons of their own
    "subject.residency": ("memory between runs", "内存占用"),
    "subject.size": ("network input", "网络输入"),
    "subject.savers": ("savers of memory", "节省内存的方法"),
    "subject.variant": ("model", "模型"),
    "subject.memory": ("memory", "内存"),
    "subject.device": ("device", "设备"),
    "subject.batch": ("pictures at once", "一次处理的张数"),
    "unit.times": ("{number} × the time of {what}", "{what} 耗时的 {number} 倍"),
    "unit.GiB short": ("GiB short", "GiB 不足"),
    "unit.calls to repay it": ("calls to repay it", "次调用才划算"),
    "unit.s more in this request": ("s more in this request", "秒（本次请求多用的时间）"),
    "unit.× the time by blocks": ("× the time by blocks", "倍于逐块计算的耗时"),
    "evidence.measured": ("measured", "实测"),
    "evidence.estimated": ("estimated", "估算"),
    "evidence.vendor": ("vendor", "厂商数据"),
    "evidence.typical": ("typical", "一般情况"),
    "why.box edges are sums over 17 bins times the stride; bf16 moves them by pixels": (
        "box edges are sums over 17 bins times the stride; bf16 moves them by pixels",
        "边框位置是 17 个区间之和再乘以步长；用 bf16 会偏移几个像素",
    ),
    "why.learned factors on the distances of the boxes": (
        "learned factors on the distances of the boxes",
        "是对边框距离的学习系数",
    ),
    "why.it reads pixel columns above 256 and metres as numbers": (
        "it reads pixel columns above 256 and metres as numbers",
        "它要读取大于 256 的像素列号和以米计的数值",
    ),
    "why.its logits weigh 512 depth bins": ("its logits weigh 512 depth bins", "它的输出要衡量 512 个深度区间"),
    "why.timestep sinusoids need more than eight bits": (
        "timestep sinusoids need more than eight bits",
        "时间步的正弦编码需要八位以上的精度",
    ),
}
STAGES: dict[str, tuple[str, str]] = {}
