"""Words of a cluster of machines: (English, Simplified Chinese)."""

STAGES: dict[str, tuple[str, str]] = {
    "asking_for_card": ("Asking the Space for a card for {seconds} s", "正在向 Space 申请使用 GPU {seconds} 秒"),
    "replica_lost": (
        "A machine of the cluster went away; starting again on another",
        "集群中的一台机器已离线，正在另一台上重新开始",
    ),
}
EVENTS: dict[str, tuple[str, str]] = {
    "replica_lost": ("a machine of the cluster went away", "集群中的一台机器已离线"),
}
