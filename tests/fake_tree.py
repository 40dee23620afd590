"""Trees of ``proc`` and ``sys`` as kernels show them, for tests."""

from pathlib import Path

V1 = "31 23 0:28 / /sys/fs/cgroup/{0} rw - cgroup cgroup rw,{0}\n"
V2 = "30 23 0:27 {top} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
