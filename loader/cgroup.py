"""What Linux control groups allow this process: memory and processor time, versions 1 and 2. Reads files only.

A limit may sit on any ancestor of the process's own group, so each is looked at and the least counts. What a group
uses is its working set, usage without inactive file pages: the kernel gives those back before it kills anything, and
a container that has read its weights would otherwise look full.
Source: the kernel's documentation, admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst and scheduler/sched-bwc.rst.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Version 1 says "no limit" with the largest multiple of a page below 2^63.
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class MemoryLimit:
    """The tightest memory limits above a process, in bytes.

    Attributes:
        limit: the smallest limit of any ancestor.
        free: the smallest limit less working set of any ancestor; the two may come from different groups.
    """

    limit: int
    free: int


@dataclass(frozen=True)
class _Group:
    """A directory of one hierarchy, and which version's file names it has."""

    path: Path
    version: int


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The memory limits this process is under, None when there are none.

    Args:
        root: directory that holds ``proc`` and ``sys``.
    """
    limits: list[int] = []
    free: list[int] = []
    for group in _groups(root, "memory"):
        limit = _group_limit(group)
        if limit is None:
            continue
        limits.append(limit)
        used = _number(group.path / ("memory.current" if group.version == 2 else "memory.usage_in_bytes")) or 0
        free.append(max(0, limit - max(0, used - _inactive_file(group.path))))
    return MemoryLimit(min(limits), min(free)) if limits else None


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time this process may use, None when it is not limited.

    Args:
        root: directory that holds ``proc`` and ``sys``.
    """
    quotas = [quota for group in _groups(root, "cpu") if (quota := _group_quota(group)) is not None]
    return min(quotas, default=None)


def _group_limit(group: _Group) -> int | None:
    if group.version == 1:
        limit = _number(group.path / "memory.limit_in_bytes")
        return None if limit is None or limit >= _NO_LIMIT else limit
    # Above memory.high the kernel reclaims and stalls the process, which is as good as the end for a plan.
    found = [_number(group.path / name) for name in ("memory.max", "memory.high")]
    return min((value for value in found if value is not None), default=None)


def _group_quota(group: _Group) -> float | None:
    if group.version == 2:
        words = _text(group.path / "cpu.max").split()
        quota, period = (words[0], words[1]) if len(words) == 2 else ("max", "0")
    else:
        quota, period = (_text(group.path / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if not quota.isdecimal() or not period.isdecimal() or int(quota) == 0 or int(period) == 0:
        return None  # "max" in version 2, -1 in version 1
    return int(quota) / int(period)


def _inactive_file(path: Path) -> int:
    stat = dict(line.split(maxsplit=1) for line in _text(path / "memory.stat").splitlines() if " " in line)
    # Version 1's plain figure leaves out the descendants that its usage counts; version 2's includes them.
    value = stat.get("total_inactive_file", stat.get("inactive_file", "0")).strip()
    return int(value) if value.isdecimal() else 0


def _groups(root: Path, controller: str) -> Iterator[_Group]:
    """The groups of this process that ``controller`` may limit, each hierarchy from the leaf to its mount point."""
    mounts = _mounts(root)
    for line in _text(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        number, controllers, where = parts
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.version == version and (version == 2 or controller in mount.controllers):
                for path in _lineage(root, mount, where):
                    yield _Group(path, version)


@dataclass(frozen=True)
class _Mount:
    version: int
    top: str
    point: str
    controllers: tuple[str, ...]


def _mounts(root: Path) -> list[_Mount]:
    mounts = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not separator or len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        mounts.append(_Mount(version, fields[3], fields[4], tuple(kind[-1].split(","))))
    return mounts


def _lineage(root: Path, mount: _Mount, where: str) -> Iterator[Path]:
    """Directories of a group and its ancestors, as far up as they are mounted here.

    In a container without its own cgroup namespace the kernel names the group as the host sees it, while the mount
    starts at the container's group: that part is taken off. A name that still does not exist is the mount point's.
    """
    top = mount.top.rstrip("/")
    inside = where[len(top) :] if where == top or where.startswith(top + "/") else where
    point = root / mount.point.lstrip("/")
    leaf = point / inside.strip("/")
    if ".." in inside.split("/") or not leaf.is_dir():
        leaf = point
    while True:
        yield leaf
        if leaf == point:
            return
        leaf = leaf.parent


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
