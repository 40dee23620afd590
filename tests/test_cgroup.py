"""Memory and processor time that control groups of either version allow."""

from pathlib import Path

from loader import cgroup
from loader.host import GIB
from tests.fake_tree import V1, V2, write


def test_version_2_takes_the_tightest_ancestor(tmp_path: Path):
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/app\n",
            "proc/self/mountinfo": V2.format(top="/"),
            "sys/fs/cgroup/pod/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/pod/app/memory.max": "max\n",
            "sys/fs/cgroup/pod/app/memory.high": f"{6 * GIB}\n",
            "sys/fs/cgroup/pod/app/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/pod/app/cpu.max": "max 100000\n",
        },
    )
    assert cgroup.memory_limit(root) == cgroup.MemoryLimit(4 * GIB, 2 * GIB)
    assert cgroup.cpu_quota(root) == 1.5


def test_version_1_in_a_container_without_its_own_namespace(tmp_path: Path):
    mount = V1.format("memory").replace(" / ", " /docker/abc ", 1)
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc/job\n1:cpu,cpuacct:/\n0::/\n",
            "proc/self/mountinfo": mount + V1.format("cpu,cpuacct"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{8 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{7 * GIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {2 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{6 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup.memory_limit(root) == cgroup.MemoryLimit(6 * GIB, 3 * GIB)
    assert cgroup.cpu_quota(root) == 4


def test_no_groups_or_no_limits_limit_nothing(tmp_path: Path):
    assert cgroup.memory_limit(tmp_path) is None
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/gone\n1:cpu:/\nrubbish\n",
            "proc/self/mountinfo": V1.format("memory") + V1.format("cpu"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup.memory_limit(root) is None
    assert cgroup.cpu_quota(root) is None
