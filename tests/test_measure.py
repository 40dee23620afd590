"""Timing that knows when it was disturbed, peaks of memory, and the store of what was learned."""

import json
import mmap
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from loader import measure
from loader.host import load_host
from loader.knowledge import EMPTY, Correction, Quarantine, correction_key
from loader.measure import Cost, PeakMeter, Store, anonymous_bytes, timed

MIB = 2**20


# --- time -------------------------------------------------------------------------------------------------------


class Clocks:
    """Replaces ``time``: each call of ``run`` takes the next of ``walls`` seconds and ``share`` of a processor."""

    def __init__(self, walls: list[float], share: float) -> None:
        self.walls, self.share, self.wall, self.cpu = iter(walls), share, 100.0, 10.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu

    def run(self) -> None:
        took = next(self.walls)
        self.wall += took
        self.cpu += took * self.share


def timing_of(monkeypatch, walls: list[float], share: float = 1.0, **options) -> measure.Timing:
    clocks = Clocks(walls, share)
    monkeypatch.setattr(measure, "time", clocks)
    return timed(clocks.run, len(walls), **options)


def test_a_quiet_machine_gives_the_fastest_and_the_middle_call(monkeypatch):
    timing = timing_of(monkeypatch, [0.012, 0.010, 0.011])
    assert (timing.min, timing.median) == (pytest.approx(0.010), pytest.approx(0.011))
    assert timing.wall_over_cpu == pytest.approx(1)
    assert timing.quiet


def test_wall_time_far_above_processor_time_is_a_disturbance(monkeypatch):
    timing = timing_of(monkeypatch, [0.02, 0.02, 0.02], share=0.5)
    assert timing.wall_over_cpu == pytest.approx(2)
    assert not timing.quiet


def test_two_threads_of_which_one_did_not_get_its_processor(monkeypatch):
    assert timing_of(monkeypatch, [0.01] * 3, share=2.0, threads=2).quiet
    assert not timing_of(monkeypatch, [0.01] * 3, share=1.2, threads=2).quiet


def test_repeats_that_disagree_are_a_disturbance(monkeypatch):
    assert not timing_of(monkeypatch, [0.01, 0.02, 0.02]).quiet


def test_waiting_for_an_accelerator_is_none(monkeypatch):
    timing = timing_of(monkeypatch, [0.01, 0.01], share=0.01, waits=True)
    assert timing.quiet
    assert timing.wall_over_cpu == 0


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        timed(lambda: None, 0)


# --- memory -----------------------------------------------------------------------------------------------------


def test_the_peak_counts_what_is_freed_before_the_end():
    # Asked of the kernel itself: the C library may have that much to spare from an earlier test.
    with PeakMeter() as meter:
        with mmap.mmap(-1, 48 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            # Piece by piece: the whole as one object would be as much again.
            for _ in range(48):
                block.write(b"x" * MIB)
            time.sleep(0.03)
        time.sleep(0.01)
    assert 48 * MIB <= meter.bytes["host"] < 64 * MIB
    assert meter.bytes["device"] == 0


def test_a_memory_mapped_file_does_not_count(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(b"w" * (32 * MIB))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, PeakMeter() as meter:
        assert sum(mapped[:: mmap.PAGESIZE]) == ord("w") * (32 * MIB // mmap.PAGESIZE)
        time.sleep(0.02)
    assert meter.bytes["host"] < 8 * MIB


def test_the_peak_survives_an_error_and_the_thread_ends():
    resident = iter([10, 50, 20])
    meter = PeakMeter(interval=60, resident=lambda: next(resident))
    with pytest.raises(KeyError), meter:
        raise KeyError
    assert meter.bytes["host"] == 40
    assert not meter._thread.is_alive()


def test_without_the_kernels_counter_it_takes_what_only_this_process_holds(monkeypatch, tmp_path: Path):
    exact = anonymous_bytes()
    monkeypatch.setattr(measure, "_STATUS", tmp_path / "none")
    assert 0.5 * exact < anonymous_bytes() < 3 * exact


def test_an_accelerators_peak_is_the_most_reserved():
    calls = []
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda index: calls.append(("reset", index)),
        max_memory_reserved=lambda index: 700 if index == 1 else 0,
    )
    with PeakMeter("cuda:1", torch=SimpleNamespace(cuda=cuda)) as meter:
        assert calls == [("reset", 1)]
    assert meter.bytes["device"] == 700


def test_metal_has_no_peak_of_its_own_and_is_sampled():
    held = iter([*[300] * 3, 900, *[100] * 10**6])
    mps = SimpleNamespace(driver_allocated_memory=lambda: next(held))
    with PeakMeter("mps", interval=0.001, torch=SimpleNamespace(mps=mps)) as meter:
        time.sleep(0.1)
    assert meter.bytes["device"] == 900


# --- what was learned -------------------------------------------------------------------------------------------

T4 = replace(load_host("t4-16g"), name="this machine")
KEY = correction_key("damo_yolo", "tiny", "cuda:0", "fp16")
FAILED = Quarantine("metric3d", "small", "encoder", "fp16", "none", T4.torch, "cuda:0", "not finite")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "learned.json", T4)


def test_a_new_machine_knows_nothing(store: Store):
    assert store.load() == EMPTY
    assert not store.path.exists()


def test_a_run_corrects_the_next_prediction_and_survives_a_restart(store: Store):
    store.record_run(KEY, predicted=Cost(2.0, 100), measured=Cost(3.0, 80))
    again = Store(store.path, T4).load()
    assert again.correction(KEY) == Correction(pytest.approx(1.5), pytest.approx(0.8), 1)


def test_corrections_already_in_the_prediction_are_not_applied_twice(store: Store):
    for _ in range(5):
        known = store.load().correction(KEY)
        store.record_run(
            KEY, predicted=Cost(2.0 * known.seconds, int(1000 * known.bytes)), measured=Cost(3.0, 800), applied=known
        )
    assert store.load().correction(KEY).seconds == pytest.approx(1.5)
    assert store.load().correction(KEY).bytes == pytest.approx(0.8)
    assert store.load().correction(KEY).runs == 5


def test_the_average_reaches_back_about_twenty_runs(store: Store):
    for _ in range(60):
        store.record_run(KEY, predicted=Cost(1.0, 100), measured=Cost(1.0, 100))
    for _ in range(20):
        store.record_run(KEY, predicted=Cost(1.0, 100), measured=Cost(2.0, 100))
    seconds = store.load().correction(KEY).seconds
    assert seconds == pytest.approx(2 - 0.95**20, abs=1e-6)


def test_disturbed_and_absurd_runs(store: Store):
    store.record_run(KEY, predicted=Cost(1.0, 100), measured=Cost(9.0, 100), quiet=False)
    store.record_run(KEY, predicted=Cost(0.0, 100), measured=Cost(1.0, 100))
    assert store.load().corrections == {}
    store.record_run(KEY, predicted=Cost(1.0, 100), measured=Cost(50_000.0, 100))
    assert store.load().correction(KEY).seconds == 20


def test_measured_speeds_are_kept_by_device_and_dtype(store: Store):
    store.record_speed("cpu", {"bf16": 4.1})
    store.record_speed("cpu", {"int8": 2.0})
    assert store.load().speed == {"cpu": {"bf16": 4.1, "int8": 2.0}}


def test_what_failed_is_remembered_once(store: Store):
    store.add_quarantine(FAILED)
    store.add_quarantine(FAILED)
    assert store.load().quarantine == (FAILED,)


def test_another_torch_forgets_what_failed(store: Store):
    store.add_quarantine(FAILED)
    newer = Store(store.path, replace(T4, torch="2.99.0"))
    assert newer.load().quarantine == ()
    newer.record_speed("cpu", {"bf16": 2.0})
    assert Store(store.path, T4).load().quarantine == (), "written by the newer torch, the entry is gone for good"


def test_another_card_forgets_what_the_old_one_taught(store: Store):
    store.add_quarantine(FAILED)
    on_cpu = replace(FAILED, device="cpu")
    store.add_quarantine(on_cpu)
    store.record_speed("cuda:0", {"fp16": 3.0})
    store.record_speed("cpu", {"bf16": 2.0})
    store.record_run(KEY, predicted=Cost(1.0, 100), measured=Cost(2.0, 100))
    other = replace(T4, accelerators=(replace(T4.accelerators[0], name="NVIDIA L4"),))
    known = Store(store.path, other).load()
    assert known.quarantine == (on_cpu,)
    assert known.speed == {"cpu": {"bf16": 2.0}}
    assert known.corrections == {}


def test_a_quarantine_may_name_the_card_itself(store: Store):
    entry = replace(FAILED, device="Tesla T4")
    store.add_quarantine(entry)
    assert store.load().quarantine == (entry,)
    other = replace(T4, accelerators=(replace(T4.accelerators[0], name="NVIDIA L4"),))
    assert Store(store.path, other).load().quarantine == ()


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe\x00", b"[]", b'{"format": "anyhost-learned-9", "torch": ""}', b'{"some": "other program"}', b""],
)
def test_a_damaged_or_foreign_file_is_set_aside(store: Store, content: bytes, caplog):
    store.path.parent.mkdir()
    store.path.write_bytes(content)
    assert store.load() == EMPTY
    assert store.path.with_name("learned.json.corrupt").read_bytes() == content
    assert "set aside" in caplog.text
    store.record_speed("cpu", {"bf16": 2.0})
    assert store.load().speed == {"cpu": {"bf16": 2.0}}


def test_two_processes_do_not_undo_each_other(store: Store):
    other = Store(store.path, T4)
    store.load()
    other.load()
    store.record_speed("cpu", {"bf16": 2.0})
    other.add_quarantine(FAILED)
    store.record_run(KEY, predicted=Cost(1.0, 100), measured=Cost(2.0, 100))
    known = other.load()
    assert known.speed
    assert known.quarantine
    assert known.corrections


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(store: Store, monkeypatch, caplog):
    store.record_speed("cpu", {"bf16": 2.0})
    before = store.path.read_bytes()

    def half(content, file, **_):
        file.write('{"format"')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measure, "json", SimpleNamespace(dump=half, loads=json.loads))
    store.add_quarantine(FAILED)
    assert "could not be kept" in caplog.text
    assert store.path.read_bytes() == before
    assert [p.name for p in store.path.parent.iterdir()] == ["learned.json"]


def test_what_holds_for_one_session_is_not_kept(store: Store):
    store.record_speed("cpu", {"bf16": 2.0})
    data = json.loads(store.path.read_text(encoding="utf-8"))
    data["knowledge"]["held_bytes"] = {"cuda:0": 10**9}
    store.path.write_text(json.dumps(data), encoding="utf-8")
    assert store.load().held_bytes == {}
