"""What was compiled is kept under all that it depends on, checked before it is used, and thrown away if wrong."""

import logging
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from loader.compiling import CacheKey, CompileCache
from loader.compiling.cache import MANIFEST, VARIABLE
from loader.compiling.calls import Call
from loader.compiling.desk import key_of
from loader.plan import Plan, plan
from loader.wishes import Wishes
from tests.compiled_adapter import BLOCKS, SPEC, WIDTH
from tests.machines import host_with

KEY = CacheKey("cpu", "2.13.0", "damo_yolo", "T", "detector", "cpu", "bf16", "640x640", "channels_last", "1x3x640x640")
MADE = plan(SPEC, host_with(), Wishes(compile="default"))
ROWS = Call((torch.zeros(2, WIDTH),), {}).signature


def filled(cache: CompileCache, key: CacheKey = KEY) -> Path:
    """A folder as a compile leaves it."""
    with cache.used(key):
        folder = Path(os.environ[VARIABLE])
        (folder / "ab").mkdir(parents=True)
        (folder / "ab" / "kernel.so").write_bytes(b"code")
        (folder / "graph").write_bytes(b"graph")
        (folder / "x.lock").write_bytes(b"")
    cache.seal(key)
    return folder


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [f.name for f in fields(CacheKey)])
def test_the_key_changes_with_each_of_its_parts(field):
    other = replace(KEY, **{field: getattr(KEY, field) + "x"})
    assert other.digest != KEY.digest
    assert replace(KEY).digest == KEY.digest


def key(made: Plan = MADE, host=None, signature=ROWS, own: Path | None = None) -> str:
    return key_of(host or host_with(), made, made.component("net"), signature, own).digest


def placed(**changes: object) -> Plan:
    return replace(MADE, components=(replace(MADE.component("net"), **changes),))


def test_the_key_of_a_component_follows_what_it_is_and_where_it_runs():
    cpu = host_with().cpu
    others = [
        key(host=replace(host_with(), cpu=replace(cpu, effective_isa=("avx2",)))),
        key(host=replace(host_with(), cpu=replace(cpu, limits=("ONEDNN_MAX_CPU_ISA=AVX2",)))),
        key(host=replace(host_with(), cpu=replace(cpu, cores=cpu.cores + 1))),
        key(host=replace(host_with(), torch="2.14.0")),
        key(replace(MADE, adapter="other")),
        key(replace(MADE, variant="other")),
        key(replace(MADE, size=(16, 16))),
        key(placed(compute_dtype="bf16")),
        key(placed(storage_dtype="bf16")),
        key(placed(memory_format="channels_last")),
        key(placed(attention="blocks:1:2")),
        key(placed(fuse=True)),
        key(placed(keep_fp32=("layers.0",))),
        key(placed(compile="reduce-overhead")),
        key(plan(BLOCKS, host_with(), Wishes(compile="default"))),
        key(signature=Call((torch.zeros(4, WIDTH),), {}).signature),
        key(signature=Call((torch.zeros(2, WIDTH, dtype=torch.bfloat16),), {}).signature),
        key(own=Path("mine.pth")),
    ]
    assert len({key(), *others}) == len(others) + 1
    # What changes from moment to moment is no part of it: free memory, what was learned, the name of the machine.
    assert key(host=replace(host_with(), free_ram_bytes=1, name="else")) == key()


# --- folders --------------------------------------------------------------------------------------------------------


def test_what_was_sealed_is_found_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "before")
    folder = filled(CompileCache(tmp_path))
    assert os.environ[VARIABLE] == "before"
    again = CompileCache(tmp_path)
    assert again.check(KEY)
    assert not again.check(replace(KEY, torch="2.14.0"))
    assert again.folder(KEY) == folder
    # The inductor adds files of its own while it runs: they are no fault.
    (folder / "later").write_bytes(b"more")
    assert again.check(KEY)


def test_without_a_folder_set_before_none_is_set_after(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match="compiler"), CompileCache(tmp_path).used(KEY):
        raise ValueError("compiler")
    assert VARIABLE not in os.environ


def broken_file(folder: Path) -> None:
    (folder / "ab" / "kernel.so").write_bytes(b"cod")


def missing_file(folder: Path) -> None:
    (folder / "graph").unlink()


def broken_list(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def never_finished(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def foreign(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("2.13.0", "2.9.0"))


def other_format(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


@pytest.mark.parametrize("harm", [broken_file, missing_file, broken_list, never_finished, foreign, other_format])
def test_a_broken_or_foreign_folder_is_thrown_away_and_said_once(tmp_path, caplog, harm):
    cache = CompileCache(tmp_path)
    harm(filled(cache))
    with caplog.at_level(logging.WARNING):
        assert not cache.check(KEY)
        assert not cache.folder(KEY).exists()
        harm(filled(cache))
        assert not cache.check(KEY)
    assert len(caplog.records) == 1
    assert "thrown away" in caplog.text
    filled(cache)
    assert cache.check(KEY)


def test_the_folder_longest_not_used_goes_when_there_are_too_many(tmp_path):
    cache = CompileCache(tmp_path, limit_bytes=25_000)
    first, second, third = (replace(KEY, size=str(number)) for number in range(3))

    def large(each: CacheKey) -> Path:
        folder = filled(cache, each)
        (folder / "graph").write_bytes(b"x" * 10_000)
        cache.seal(each)
        return folder / MANIFEST

    for at, each in enumerate((first, second)):
        os.utime(large(each), (1000 + at, 1000 + at))
    assert cache.check(first)  # it is used again
    large(third)
    assert [cache.folder(each).exists() for each in (first, second, third)] == [True, False, True]


def test_a_cache_that_cannot_be_written_fails_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = CompileCache(tmp_path / "file" / "below")
    assert not cache.check(KEY)
    with cache.used(KEY):
        pass
    cache.seal(KEY)
    cache.forget(KEY)
