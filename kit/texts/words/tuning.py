"""Words about trying several plans, judging precision and the allocator: (English, Simplified Chinese)."""

RULES: dict[str, tuple[str, str]] = {
    "tuned": (
        "timed in turn on sample input here on {when}: {got} takes {ms} ms an item ({fastest_ms} to {slowest_ms} in "
        "{rounds} undisturbed rounds)",
        "{when} 已在本机用示例输入轮流计时：{got} 每项用时 {ms} 毫秒（{rounds} 轮未受干扰的测量，"
        "{fastest_ms} 到 {slowest_ms} 毫秒）",
    ),
}
FLIPS: dict[str, tuple[str, str]] = {
    "tuned": (
        "a wish, another size, processor, card or PyTorch, or trying again",
        "您另有选择，尺寸、处理器、显卡或 PyTorch 有变，或重新测试",
    ),
}
STAGES: dict[str, tuple[str, str]] = {
    "judging_skipped": (
        "not compared with fp32: that would take about {seconds} s, and {limit} s are allowed",
        "未与 fp32 比较：约需 {seconds} 秒，而允许 {limit} 秒",
    ),
    "tuning_opening": ("loading what is to be tried: {way}", "正在加载要测试的方案：{way}"),
    "tuning_warming": ("first runs: {way}", "首次运行：{way}"),
    "tuning": (
        "timing in turn, quiet rounds ({disturbed} disturbed so far)",
        "轮流计时，未受干扰的轮次（目前受干扰 {disturbed} 轮）",
    ),
}
PAGE: dict[str, tuple[str, str]] = {
    "unit.ms": ("milliseconds", "毫秒"),
    "unit.from fp32": ("away from fp32: too far", "与 fp32 的偏差过大"),
    "tune.title": ("Tried on this machine", "在本机上测试"),
    "tune.button": ("Tune for this machine", "针对本机调优"),
    "tune.words": (
        "Times the few most promising ways of computing on a sample, in turn, for about a minute. The fastest within "
        "the allowed drift is used from then on.",
        "用示例输入轮流测试几种最有希望的计算方式，约需一分钟。此后使用偏差允许范围内最快的一种。",
    ),
    "tune.denied": (
        "Only whoever administers this machine may tune it: what wins is used for everybody.",
        "只有本机的管理者可以调优，因为结果会用于所有人。",
    ),
    "tune.won": (
        "{way} is used from now on: {ms} ms an item.",
        "此后使用 {way}：每项 {ms} 毫秒。",
    ),
    "tune.stays": (
        "{way} stays: {ms} ms an item, and nothing tried was at least 3 % faster.",
        "继续使用 {way}：每项 {ms} 毫秒，没有任何方案快 3% 以上。",
    ),
    "tune.gain": ("Planned before: {way}, {times}× the time.", "此前的计划：{way}，用时为其 {times} 倍。"),
    "tune.disturbed": (
        "Nothing is kept: only {quiet} of {rounds} rounds had the processor to themselves. Try again when the machine "
        "is less busy.",
        "未保留任何结果：{rounds} 轮中只有 {quiet} 轮独占处理器。请在机器较空闲时再试。",
    ),
    "tune.rounds": (
        "{quiet} undisturbed rounds of {rounds}, {seconds} in all",
        "{rounds} 轮中有 {quiet} 轮未受干扰，共用时 {seconds}",
    ),
    "tune.column.way": ("way", "方案"),
    "tune.column.ms": ("ms an item", "毫秒/项"),
    "tune.column.range": ("range", "范围"),
    "tune.column.drift": ("drift", "偏差"),
    "tune.column.note": ("note", "说明"),
    "tune.planned": ("planned before", "此前的计划"),
    "tune.fastest": ("used from now on", "此后使用"),
    "tune.slow": ("too slow to go on with", "过慢，未继续"),
    "tune.drift": ("too far from fp32: {detail}", "与 fp32 的偏差过大：{detail}"),
    "tune.failed": ("failed: {detail}", "失败：{detail}"),
}
REPORT: dict[str, tuple[str, str]] = {
    "drift_measured": (
        "{value} away from fp32 on the sample, {limit} allowed ({metric}); compared in {seconds}",
        "示例输入与 fp32 的偏差为 {value}，允许 {limit}（{metric}）；比较用时 {seconds}",
    ),
    "drift_known": (
        "{value} away from fp32 on the sample, {limit} allowed ({metric}); compared before",
        "示例输入与 fp32 的偏差为 {value}，允许 {limit}（{metric}）；此前已比较",
    ),
    "drift_exact": ("everything computes in fp32", "全部以 fp32 计算"),
    "drift_skipped": (
        "not compared with fp32: it would take about {seconds}; --check-drift does it",
        "未与 fp32 比较：约需 {seconds}；可用 --check-drift 进行比较",
    ),
    "drift_impossible": (
        "not compared with fp32: that does not fit here",
        "未与 fp32 比较：本机内存放不下 fp32",
    ),
}
