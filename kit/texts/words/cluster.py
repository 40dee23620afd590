"""Words of a cluster of machines: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    "plan.button": ("{action} (about {seconds})", "{action}（约 {seconds}）"),
    "cluster.planned_on": (
        "Planned for one machine of the cluster: {host}. Another one may plan otherwise for itself.",
        "这是为集群中的一台机器规划的：{host}。其他机器会为自己另行规划。",
    ),
}

STAGES: dict[str, tuple[str, str]] = {
    "asking_for_card": ("Asking the Space for a card for {seconds} s", "正在向 Space 申请使用 GPU {seconds} 秒"),
    "replica_lost": (
        "A machine of the cluster went away; starting again on another",
        "集群中的一台机器已离线，正在另一台上重新开始",
    ),
}
RULES: dict[str, tuple[str, str]] = {
    "compile_package": (
        "blocks compiled ahead of time are loaded where a package fits PyTorch, processor or card, and shapes; "
        "the others run as they are",
        "若有与 PyTorch 版本、处理器或显卡及张量形状相符的预编译包，则加载使用；其余模块照常运行",
    ),
}
EVENTS: dict[str, tuple[str, str]] = {
    "package_missing": ("blocks ran without ahead-of-time code", "部分模块没有预编译代码，照常运行"),
    "replica_lost": ("a machine of the cluster went away", "集群中的一台机器已离线"),
}
