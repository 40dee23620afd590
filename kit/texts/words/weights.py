"""Words of the weights page, of the terms of weights and of the bars of memory: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    # terms that have to be accepted
    "terms.title": ("Terms to accept first", "须先接受的条款"),
    "terms.covers": ("covers {files} of {size}", "适用于 {files}，共 {size}"),
    "terms.files": ("{count} files", "{count} 个文件"),
    "terms.file": ("one file", "1 个文件"),
    "terms.accept": ("I have read and accept: {name}", "我已阅读并接受：{name}"),
    "terms.deployer": (
        "Accepted by whoever runs this page: {names}.",
        "本页面的运营者已接受：{names}。",
    ),
    "terms.line": (
        "Nothing is fetched or run before you tick them. The tick holds for this browser page only.",
        "勾选之前不会下载，也不会运行。勾选仅对当前打开的页面有效。",
    ),
    "terms.join": ("; ", "；"),
    "terms.refused": (
        "{terms}: read and accept these terms first. Tick them on the page, name them with --accept-licence on the "
        "command line, or in ANYHOST_ACCEPT for everybody",
        "{terms}：请先阅读并接受这些条款。可在页面上勾选，或在命令行用 --accept-licence 写明名称，"
        "或由部署者写入 ANYHOST_ACCEPT 以对所有人生效",
    ),
    "error.terms": ("Terms to accept first", "须先接受条款"),
    # the page of weights
    "weights.title": ("Weights", "权重"),
    "weights.head": ("Files of weights", "权重文件"),
    "weights.words": (
        "What is on this disk, how large it is and under which licence. Running a model fetches what it lacks; here it "
        "can be done beforehand.",
        "哪些权重在本机磁盘上、有多大、采用何种许可证。运行模型时会自动下载所缺的文件，也可以在这里提前下载。",
    ),
    "weights.variant": ("Model", "模型"),
    "weights.all": ("All models", "全部模型"),
    "weights.files_of": ("Files of {name}", "{name} 的文件"),
    "weights.file": ("File", "文件"),
    "weights.state": ("State", "状态"),
    "weights.size": ("Size", "大小"),
    "weights.licence": ("Licence", "许可证"),
    "weights.checksum": ("SHA-256", "SHA-256 校验和"),
    "weights.here": ("on this disk", "已在磁盘上"),
    "weights.ships": ("ships with this project", "随本项目提供"),
    "weights.not_here": ("not here", "尚无"),
    "weights.some": ("{have} of {count} files", "{count} 个文件中已有 {have} 个"),
    "weights.partial": ("{done} of {total} have come", "已有 {total} 中的 {done}"),
    "weights.coming": ("being fetched", "正在下载"),
    "weights.origin.own": ("in your own folder", "在您自己的文件夹中"),
    "weights.origin.cache": ("in this program's cache", "在本程序的缓存中"),
    "weights.origin.hub": ("in the Hugging Face cache", "在 Hugging Face 缓存中"),
    "weights.origin.asset": ("part of this project", "本项目自带"),
    "weights.origin.unfinished": ("unfinished downloads", "未完成的下载"),
    "weights.from": ("from {origin}", "来自 {origin}"),
    "weights.passed": ("Passed over: {why}", "已跳过：{why}"),
    "weights.sum_announced": ("announced, and checked here", "发布者已公布，并已在本机核对"),
    "weights.sum_unverified": ("announced, checked before first use", "发布者已公布，首次使用前核对"),
    "weights.sum_recorded": ("recorded here at first use", "首次使用时记录于本机"),
    "weights.sum_hub": ("announced by the Hub with the download", "下载时由 Hub 公布"),
    "weights.sum_none": ("none announced: recorded at first use", "未公布：首次使用时记录"),
    "weights.totals": ("On this disk", "磁盘占用"),
    "weights.total": ("{size} in {count} files", "{size}，共 {count} 个文件"),
    "weights.free": ("Free", "剩余空间"),
    "weights.free_cache": ("for this program's cache", "供本程序的缓存使用"),
    "weights.free_hub": ("for the Hugging Face cache", "供 Hugging Face 缓存使用"),
    "weights.announce": ("Will fetch {files}, {size}, from {origins}.", "将下载 {files}，共 {size}，来自 {origins}。"),
    "weights.kept_part": ("{size} of it have come already.", "其中 {size} 已经下载。"),
    "weights.short": (
        "{free} are free there: free {short} first, or set {variable} to a folder on a larger disk.",
        "那里只剩 {free}：请先腾出 {short}，或把 {variable} 设为更大磁盘上的文件夹。",
    ),
    "weights.nothing": ("Nothing to fetch: every file is on this disk.", "无需下载：所有文件都在本机磁盘上。"),
    "weights.fetch": ("Download {size}", "下载 {size}"),
    "weights.resume": ("Go on: {size} to come", "继续下载：还剩 {size}"),
    "weights.complete": ("All here", "已齐全"),
    "weights.join": ("Join this download", "加入此下载"),
    "weights.stop": ("Stop the download", "停止下载"),
    "weights.progress": ("{done} of {total}", "{done}，共 {total}"),
    "weights.number": ("file {number} of {count}", "第 {number} 个文件，共 {count} 个"),
    "weights.speed": ("{speed} a second", "每秒 {speed}"),
    "weights.left": ("about {time} left", "约剩 {time}"),
    "weights.beginning": ("Looking for the files", "正在查找文件"),
    "weights.done": ("All files are here", "所有文件已就绪"),
    "weights.done_words": ("Every file has its size and its SHA-256 checked.", "每个文件的大小和 SHA-256 都已核对。"),
    "weights.stopped": ("Download stopped", "下载已停止"),
    "weights.stopped_words": (
        "{size} of unfinished files are kept to go on from. A file from the Hugging Face Hub starts over; files that "
        "are whole stay.",
        "已保留未完成文件的 {size}，可继续下载。来自 Hugging Face Hub 的文件须从头开始；已完整的文件保留。",
    ),
    "weights.left_it": ("Others still want it", "仍有他人需要"),
    "weights.left_words": (
        "Somebody else asked for these files too, so their download goes on without you.",
        "也有其他人请求了这些文件，因此下载会继续进行。",
    ),
    "weights.delete": ("Delete {size}", "删除 {size}"),
    "weights.sure": ("Delete these files?", "删除这些文件？"),
    "weights.sure_words": (
        "They were fetched by this program into its own cache and can be fetched again.",
        "它们由本程序下载到自己的缓存中，可以重新下载。",
    ),
    "weights.also": ("Also used by: {names}.", "以下模型也在使用：{names}。"),
    "weights.yes": ("Yes, delete {size}", "是，删除 {size}"),
    "weights.keep": ("Keep them", "保留"),
    "weights.deleted": ("Deleted", "已删除"),
    "weights.deleted_words": ("{size} in {count} files are free again.", "已释放 {size}，共 {count} 个文件。"),
    "weights.busy": ("They are being fetched right now: stop that first.", "这些文件正在下载：请先停止下载。"),
    "weights.no_admin": (
        "Other people can reach this page, so nothing can be deleted from it and it does not say where files lie. "
        "Whoever runs it can allow both with ANYHOST_ADMIN=1.",
        "其他人可以访问本页面，因此不能在此删除文件，也不显示文件所在位置。运营者可通过 ANYHOST_ADMIN=1 允许这两项。",
    ),
    "weights.admin": (
        "This page may delete what this program has fetched into its own cache, and nothing else: not your own "
        "folders, not the Hugging Face cache (“hf cache rm” does that), not what ships with the project.",
        "本页面只能删除本程序下载到自己缓存中的文件：不会删除您自己的文件夹、Hugging Face 缓存"
        "（可用 hf cache rm 命令）以及随项目提供的文件。",
    ),
    "weights.network": ("Network and folders", "网络与文件夹"),
    "weights.hub": ("Hugging Face Hub", "Hugging Face Hub 站点"),
    "weights.hub_on": ("asked when a file is missing", "缺少文件时访问"),
    "weights.hub_off": ("never asked: HF_HUB_OFFLINE is set", "从不访问：已设置 HF_HUB_OFFLINE"),
    "weights.hub_mirror": ("mirror {host} (HF_ENDPOINT)", "镜像 {host}（HF_ENDPOINT）"),
    "weights.proxy": ("Proxy", "代理"),
    "weights.proxy_on": ("used, as HTTPS_PROXY says", "按 HTTPS_PROXY 使用"),
    "weights.proxy_off": ("none; HTTPS_PROXY sets one", "无；可用 HTTPS_PROXY 设置"),
    "weights.own": ("Your own folders", "您自己的文件夹"),
    "weights.own_none": ("none; ANYHOST_WEIGHTS names them", "无；可用 ANYHOST_WEIGHTS 指定"),
    "weights.own_count": ("{count}, named in ANYHOST_WEIGHTS", "{count} 个，由 ANYHOST_WEIGHTS 指定"),
    "weights.cache": ("This program's cache", "本程序的缓存"),
    "weights.cache_hint": ("ANYHOST_CACHE moves it", "可用 ANYHOST_CACHE 更改"),
    # what a wish costs
    "plan.compile_cost": (
        "Compiling takes about {seconds} once, before the first result.",
        "首次得到结果之前需要编译一次，约 {seconds}。",
    ),
    # bars of memory
    "bars.title": ("Memory, part by part", "各部分的内存"),
    "bars.weights": ("weights", "权重"),
    "bars.activations": ("while it computes", "计算时"),
    "bars.part": (
        "{name} on the {device}: {weights} of weights, and {working} while it computes",
        "{name}，位于 {device}：权重 {weights}，计算时另需 {working}",
    ),
    "bars.figures": ("{weights} + {working}", "权重 {weights} + {working}"),
    "bars.ram": ("RAM", "主机内存"),
    "bars.rest": ("While computing", "计算时"),
    "bars.not_loaded": ("not loaded", "未加载"),
    "bars.sum": (
        "Not all parts are in memory at once: those that are not needed sleep. The peak above is what counts.",
        "各部分不会同时占用内存：暂不需要的部分会休眠。以上方的峰值为准。",
    ),
}
STAGES: dict[str, tuple[str, str]] = {
    "elsewhere": ("Another request is fetching {file}", "另一个请求正在下载 {file}"),
}
REPORT: dict[str, tuple[str, str]] = {
    "weights_fetch": (
        "fetches {size} first, from {origins} ({licences})",
        "先下载 {size}，来自 {origins}（{licences}）",
    ),
}
