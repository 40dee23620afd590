"""Words of the weights page and of the terms of weights: (English, Simplified Chinese)."""

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
}
STAGES: dict[str, tuple[str, str]] = {}
