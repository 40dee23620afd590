"""glibc's thresholds and preloaded allocators: what is set, where nothing is, and that a bad library is refused."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.allocator import Sample, table
from loader import allocator
from loader.allocator import MIB, Thresholds, check, find_library, preloading, relaunch, settle, tell, thresholds_for
from loader.errors import InputError
from tests.machines import ROOT

GIB = 2**30


def test_what_is_kept_is_bounded_by_the_memory_there_is():
    assert thresholds_for(64 * GIB).trim == 512 * MIB
    assert thresholds_for(2 * GIB).trim == 128 * MIB
    assert thresholds_for(GIB // 4).trim == 64 * MIB
    assert thresholds_for(GIB).mmap == allocator.LARGEST_MMAP_THRESHOLD


@pytest.mark.parametrize(
    ("environ", "accelerated", "expected"),
    [
        ({"ANYHOST_ALLOCATOR": "plain"}, False, "plain"),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, False, "preloaded"),
        ({"MALLOC_ARENA_MAX": "4"}, False, "own"),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}, False, "own"),
        ({}, True, "accelerator"),
        ({}, False, "told"),
    ],
)
def test_who_decided_otherwise_is_left_alone(environ, accelerated, expected, monkeypatch):
    monkeypatch.setattr(allocator, "_tell_glibc", lambda _: "told")
    assert settle(8 * GIB, accelerated=accelerated, environ=environ) == expected


def test_every_threshold_is_set_and_a_refusal_is_noticed():
    told = []

    def mallopt(option, value):
        told.append((option, value))
        return 0 if option == allocator.MMAP_THRESHOLD else 1

    assert not tell(SimpleNamespace(mallopt=mallopt), Thresholds(1, 2, 3))
    assert told == [(-3, 1), (-1, 2), (-8, 3)]
    assert tell(SimpleNamespace(mallopt=lambda *_: 1), Thresholds(1, 2, 3))


def test_where_there_is_no_glibc_nothing_is_set_and_it_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    allocator._tell_glibc.cache_clear()
    with caplog.at_level("INFO"):
        assert [settle(GIB, accelerated=False, environ={}) for _ in range(3)] == ["not glibc"] * 3
    assert len(caplog.records) == 1
    allocator._tell_glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.undo()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_have_no_thresholds(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    assert allocator._glibc() is None


FAULTS = """
import ctypes, resource, threading
from loader import allocator
words = allocator.settle(8 * 2**30, accelerated=False) if {told} else "plain"
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = ctypes.CDLL(None).malloc
        block.restype, block.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        free = ctypes.CDLL(None).free
        free.argtypes = [ctypes.c_void_p]
        held = [block(20 * 2**20) for _ in range(4)]
        [ctypes.memset(address, 1, 20 * 2**20) for address in held]
        [free(address) for address in held]
    counted.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
counted = []
faults()
for _ in range(2):
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
print(words, *counted)
"""


def test_told_so_glibc_faults_no_page_in_again_in_any_thread():
    """Four blocks of 20 MiB are 20,480 pages, faulted in again at every turn unless glibc keeps them."""

    def counted(told: bool) -> tuple[str, list[int]]:
        environ = {k: v for k, v in os.environ.items() if k not in allocator.OWN and k != "LD_PRELOAD"}
        done = subprocess.run(
            [sys.executable, "-c", FAULTS.format(told=told)],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        words, *figures = done.stdout.split()
        return words, [int(figure) for figure in figures]

    words, kept = counted(told=True)
    assert words == "thresholds"
    assert max(kept) < 2000, "faulted in once, then kept"
    assert max(counted(told=False)[1]) > 5000


# --- another allocator ------------------------------------------------------------------------------------------


def test_a_library_is_found_by_name_or_path_and_its_package_is_named(tmp_path):
    folder = tmp_path / "x86-linux-gnu"
    folder.mkdir()
    (folder / "libjemalloc.so.2").write_bytes(b"")
    folders = [str(tmp_path / "*-linux-gnu")]
    assert find_library("jemalloc", folders) == folder / "libjemalloc.so.2"
    assert find_library(str(folder / "libjemalloc.so.2")) == folder / "libjemalloc.so.2"
    with pytest.raises(InputError, match="apt-get install libtcmalloc-minimal4"):
        find_library("tcmalloc", folders)
    with pytest.raises(InputError, match="jemalloc, tcmalloc, or the path"):
        find_library("mimalloc", folders)
    with pytest.raises(InputError, match="no such file"):
        find_library(str(tmp_path / "none.so"))


def test_it_comes_before_what_is_preloaded_already():
    made = preloading(Path("/lib/a.so"), {"LD_PRELOAD": "/lib/b.so:/lib/a.so", "HOME": "/"})
    assert made == {"LD_PRELOAD": "/lib/a.so:/lib/b.so", "HOME": "/", "ANYHOST_ALLOCATOR": "/lib/a.so"}


def a_library(folder: Path, source: str) -> Path:
    file = folder / "libmine.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(file)], input=source, text=True, check=True)
    return file


def test_one_that_works_is_taken_and_one_that_breaks_is_refused(tmp_path):
    check(a_library(tmp_path, "int anyhost_nothing;"))
    with pytest.raises(InputError, match=r"libmine\.so was tried and PyTorch does not work"):
        check(a_library(tmp_path, "void *malloc(unsigned long n) { (void)n; return 0; }"))
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(InputError, match="the library was not loaded"):
        check(tmp_path / "text.so")


def test_the_command_is_started_anew_once(tmp_path, monkeypatch):
    file = tmp_path / "libmine.so"
    file.write_bytes(b"")
    tried, started = [], []
    monkeypatch.setattr(allocator, "check", lambda library, environ: tried.append(library))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "app.py", "serve", "--allocator", str(file)])
    relaunch(str(file), {"A": "1"}, execute=lambda *words: started.append(words))
    ((program, words, environ),) = started
    assert program == sys.executable
    assert words[1:] == ["-X", "dev", "app.py", "serve", "--allocator", str(file)]
    assert (environ["LD_PRELOAD"], environ["A"]) == (str(file), "1")
    relaunch(str(file), environ, execute=lambda *words: started.append(words))
    assert (len(tried), len(started)) == (1, 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="on Linux"):
        relaunch(str(file), {})


def test_serve_without_the_library_names_the_package(tmp_path):
    done = subprocess.run(
        [sys.executable, "app.py", "serve", "--allocator", str(tmp_path / "none.so")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no such file" in done.stderr


# --- the table --------------------------------------------------------------------------------------------------


def test_the_table_has_medians_and_ends_of_all_processes():
    plain = [
        Sample({"as published": s, "planned": s / 4}, {"as published": 900, "planned": 100}, 500) for s in (3, 1, 2)
    ]
    told = [Sample({"as published": 1.0, "planned": 0.5}, {"as published": 1, "planned": 1}, 600)] * 3
    lines = table({"glibc as it is": plain, "glibc told to keep": told})
    assert (
        lines[2]
        == "| glibc as it is | 2000.0 (1000.0 – 3000.0) | 1.00× | 900 | 500.0 (250.0 – 750.0) | 1.00× | 100 | 500 |"
    )
    assert "| 2.00× |" in lines[3]
