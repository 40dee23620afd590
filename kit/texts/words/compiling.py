"""Words of compiling beside the requests: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    "compiling.compiling": (
        "{component}: compiling in the background, eager until then.",
        "{component}：正在后台编译，完成之前按常规方式计算。",
    ),
    "compiling.trial": (
        "{component}: compiled, on trial by turns with eager.",
        "{component}：已编译，正与常规方式轮流试用。",
    ),
    "compiling.compiled": (
        "{component}: compiled, {times}× faster here ({compiled_ms} ms against {eager_ms} a call; ready in {seconds}).",
        "{component}：已编译，在本机快 {times} 倍（每次调用 {compiled_ms} 毫秒，常规 {eager_ms} 毫秒；"
        "准备用时 {seconds}）。",
    ),
    "compiling.warm": (
        "Compiled code of an earlier start was used.",
        "使用了以前启动时编译的代码。",
    ),
    "compiling.reverted_slower": (
        "{component}: reverted to eager, compiled was {times}× slower here ({compiled_ms} ms against {eager_ms}).",
        "{component}：已恢复常规方式，编译后在本机慢 {times} 倍（{compiled_ms} 毫秒，常规 {eager_ms} 毫秒）。",
    ),
    "compiling.reverted_differs": (
        "{component}: reverted to eager, compiled results differed ({detail}).",
        "{component}：已恢复常规方式，编译后的结果有偏差（{detail}）。",
    ),
    "compiling.reverted_failed": (
        "{component}: eager, compiling failed ({detail}).",
        "{component}：按常规方式计算，编译失败（{detail}）。",
    ),
    "compiling.reverted_no_room": (
        "{component}: eager, there is not enough free memory for a compiler now.",
        "{component}：按常规方式计算，目前没有足够的空闲内存用于编译。",
    ),
    "unit.s more in the calls to come": ("s more in the calls to come", "秒（今后调用多用的时间）"),
}
RULES: dict[str, tuple[str, str]] = {
    "compile_moved": (
        "it is on the device only for its stage and could be compiled only while a request waits, about {seconds} s",
        "它只在所属阶段位于设备上，只能在请求等待时编译，约 {seconds} 秒",
    ),
    "compile_packed": (
        "packed weights do what compiling does on a CPU, at once: compiled code takes about {times} times as long",
        "在 CPU 上，预先排布的权重已达到编译的效果且立即生效：编译后的代码耗时约为其 {times} 倍",
    ),
    "compile_pays_counted": (
        "about {planned} calls are to be expected, as many as came lately, and compiling (about {seconds} s, beside "
        "the requests) is repaid after {calls}",
        "按近期用量预计约有 {planned} 次调用，编译（约 {seconds} 秒，在请求之外进行）在 {calls} 次后就划算",
    ),
    "compile_pays_measured": (
        "compiled is {times}× faster here ({compiled_ms} ms against {eager_ms} a call); about {planned} calls are to "
        "be expected and {calls} repay the {seconds} s it takes",
        "编译后在本机快 {times} 倍（每次调用 {compiled_ms} 毫秒，常规 {eager_ms} 毫秒）；预计约有 {planned} 次调用，"
        "{calls} 次即可抵消 {seconds} 秒的编译时间",
    ),
    "compile_break_even_counted": (
        "compiling takes about {seconds} s and repays itself after {calls} calls; {planned} came lately",
        "编译约需 {seconds} 秒，调用 {calls} 次后才划算；近期有 {planned} 次",
    ),
    "compile_break_even_measured": (
        "compiled is {times}× faster here ({compiled_ms} ms against {eager_ms} a call), but only about {planned} calls "
        "are to be expected and {calls} repay the {seconds} s it takes",
        "编译后在本机快 {times} 倍（每次调用 {compiled_ms} 毫秒，常规 {eager_ms} 毫秒），但预计只有约 "
        "{planned} 次调用，需 {calls} 次才能抵消 {seconds} 秒的编译时间",
    ),
    "compile_lost_slower": (
        "compiled is {times}× slower here ({compiled_ms} ms against {eager_ms} a call)",
        "编译后在本机慢 {times} 倍（每次调用 {compiled_ms} 毫秒，常规 {eager_ms} 毫秒）",
    ),
    "compile_lost_differs": (
        "compiled results differed here: {reason}",
        "编译后的结果在本机有偏差：{reason}",
    ),
}
EVENTS: dict[str, tuple[str, str]] = {
    "compile_background": ("compiling in the background, eager until then", "正在后台编译，完成之前按常规方式计算"),
    "compile_trial": ("compiled, on trial by turns with eager", "已编译，正与常规方式轮流试用"),
    "compile_swapped": ("compiled, and faster here", "已编译，在本机更快"),
    "compile_differs": ("compiled results differed, back to eager", "编译后的结果有偏差，已恢复常规方式"),
    "compile_no_room": ("not enough free memory to compile", "空闲内存不足，未编译"),
}
