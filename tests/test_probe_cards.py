"""Accelerators as the probe sees them, each made of answers: no test here needs one."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from loader import probe as probing
from loader import probe_cards, speed
from loader.cards import amd_native, broken_dtypes, cuda_native, estimated_card_rates
from loader.host import GIB, Host, host_from_json, host_to_json
from loader.measure import Timing
from loader.probe import probe
from loader.rules import wheel_has_code
from loader.speed import Speeds, measure_card
from tests.fake_torch import CURRENT_WHEEL, FakeCuda, FakeTorch

NO_ENV: dict[str, str] = {}


def probed(cuda: FakeCuda, tmp_path: Path, *, timing: bool = False, **options) -> Host:
    return probe(cache_dir=tmp_path, environ=NO_ENV, torch=FakeTorch(cuda=cuda, **options), timing=timing)


def test_a_t4(tmp_path: Path):
    cuda = FakeCuda("Tesla T4", (7, 5), memory_clock_rate=5_001_000, memory_bus_width=256, clock_rate=1_590_000)
    cuda.archs = [*CURRENT_WHEEL, "compute_120"]
    host = probed(cuda, tmp_path)
    card = host.accelerators[0]
    assert (card.device, card.kind, card.arch, card.runs_code) == ("cuda:0", "cuda", "sm_75", True)
    assert card.native == ("fp32", "fp16", "int8")
    assert card.rates["fp16"].gflops == pytest.approx(65_000, rel=0.01)
    assert card.bandwidth_gbs == pytest.approx(320, rel=0.01)
    assert list(host.wheel_archs) == CURRENT_WHEEL
    assert wheel_has_code(card, host.wheel_archs)
    assert host_from_json(host_to_json(host)) == host


def test_a_card_the_wheel_has_no_code_for(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(probe_cards, "measure_card", lambda *_, **__: pytest.fail("timed a card that does not answer"))
    monkeypatch.setattr(probing, "measure_cpu", lambda *_: Speeds(note="not timed"))
    host = probed(FakeCuda("NVIDIA GeForce GTX 1080", (6, 1)), tmp_path, timing=True, no_kernel=True)
    card = host.accelerators[0]
    assert card.runs_code is False
    assert card.native == ("fp32",)
    assert card.rates["fp16"].gflops == pytest.approx(card.rates["fp32"].gflops / 64)
    assert not wheel_has_code(card, host.wheel_archs)
    assert "failed" in host.sources["cuda:0.runs_code"]


def test_a_newer_card_that_answers_runs_what_the_driver_compiles(tmp_path: Path):
    host = probed(FakeCuda("NVIDIA Thor", (11, 0)), tmp_path)
    assert host.wheel_archs == (*CURRENT_WHEEL, "sm_110")
    assert wheel_has_code(host.accelerators[0], host.wheel_archs)
    assert "PTX sm_110" in host.sources["wheel_archs"]


def test_free_memory_credits_the_allocators_cache(tmp_path: Path):
    cuda = FakeCuda("NVIDIA L4", (8, 9))
    cuda.free, cuda.reserved, cuda.allocated = 4 * GIB, 6 * GIB, 1 * GIB
    assert probed(cuda, tmp_path).accelerators[0].free_bytes == 9 * GIB


def test_a_cap_set_for_the_process_is_the_size_of_the_card(tmp_path: Path):
    cuda = FakeCuda("NVIDIA L4", (8, 9))
    cuda.fraction, cuda.reserved, cuda.allocated = 0.25, 2 * GIB, 1 * GIB
    card = probed(cuda, tmp_path).accelerators[0]
    assert (card.memory_bytes, card.free_bytes) == (4 * GIB, 3 * GIB)


def test_torch_that_cannot_tell_the_cap_has_none():
    module = SimpleNamespace(mem_get_info=lambda _: (3, 8))
    assert probe_cards._memory(module, 0) == (8, 3)


def test_an_integrated_card_shares_its_memory_and_an_amd_card_is_rocm(tmp_path: Path):
    assert probed(FakeCuda("Orin", (8, 7), is_integrated=1), tmp_path).accelerators[0].unified
    fake = FakeTorch(cuda=FakeCuda("AMD Instinct MI300X", (9, 4), gcnArchName="gfx942:sramecc+:xnack-"))
    fake.version.hip = "6.4"
    fake.cuda.archs = ["gfx90a", "gfx942"]
    host = probe(cache_dir=tmp_path, environ=NO_ENV, torch=fake, timing=False)
    card = host.accelerators[0]
    assert (card.kind, card.device, card.arch) == ("rocm", "cuda:0", "gfx942")
    assert "bf16" in card.native
    assert wheel_has_code(card, host.wheel_archs)


def test_intel_and_the_imitation_of_tests(tmp_path: Path):
    xpu = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_properties=lambda _: SimpleNamespace(name="Intel Arc A770", has_fp16=True, gpu_subslice_count=32),
        mem_get_info=lambda _: (15 * GIB, 16 * GIB),
    )
    fake = SimpleNamespace(device_count=lambda: 1, mem_get_info=lambda _: (GIB // 2, GIB))
    host = probe(cache_dir=tmp_path, environ=NO_ENV, torch=FakeTorch(xpu=xpu, fake=fake), timing=False)
    arc, imitation = host.accelerators
    assert (arc.device, arc.native) == ("xpu:0", ("fp32", "fp16", "bf16", "int8"))
    assert (imitation.device, imitation.kind, imitation.memory_bytes) == ("fake:0", "fake", GIB)
    given = replace(imitation, device="fake:1")
    assert probe(cache_dir=tmp_path, environ=NO_ENV, timing=False, extra=[given]).accelerators == (given,)


@pytest.mark.parametrize(("macos", "bf16"), [("14.5", True), ("13.6", False)])
def test_an_apple_chip(tmp_path: Path, monkeypatch, macos: str, bf16: bool):
    monkeypatch.setattr(probe_cards.platform, "mac_ver", lambda: (macos, ("", "", ""), "arm64"))
    monkeypatch.setattr(probing.psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=6 * GIB))
    mps = SimpleNamespace(
        recommended_max_memory=lambda: 11 * GIB,
        current_allocated_memory=lambda: GIB,
        driver_allocated_memory=lambda: 3 * GIB,
    )
    backends = SimpleNamespace(
        mps=SimpleNamespace(is_available=lambda: True, get_name=lambda: "Apple M2", get_core_count=lambda: 10)
    )
    fake = FakeTorch(mps=mps, backends=backends)
    host = probe(cache_dir=tmp_path, environ=NO_ENV, root=tmp_path, torch=fake, timing=False)
    card = host.accelerators[0]
    assert (card.device, card.arch, card.unified) == ("mps", "apple-m2", True)
    assert ("bf16" in card.native) == bf16
    assert card.free_bytes == 8 * GIB, "what is free of the machine and what Metal keeps unused, not 10"


def test_a_device_that_cannot_be_asked_is_left_out_with_the_reason(tmp_path: Path):
    cuda = FakeCuda("NVIDIA L4", (8, 9))
    cuda.mem_get_info = lambda _: (_ for _ in ()).throw(RuntimeError("driver shutting down\nmore"))
    host = probed(cuda, tmp_path)
    assert host.accelerators == ()
    assert host.sources["cuda:0"] == "could not be asked: driver shutting down"


@pytest.mark.parametrize(
    ("capability", "fp16", "bf16"),
    [((5, 0), 0, 0), ((5, 3), 1, 0), ((6, 0), 1, 0), ((6, 1), 0, 0), ((7, 0), 1, 0), ((7, 5), 1, 0), ((8, 0), 1, 1),
     ((8, 9), 1, 1), ((12, 0), 1, 1)],
)  # fmt: skip
def test_native_dtypes_by_compute_capability(capability: tuple[int, int], fp16: int, bf16: int):
    native = cuda_native(capability)
    assert ("fp16" in native, "bf16" in native) == (fp16, bf16)


def test_amd_and_broken_cards_and_families():
    assert [a for a in ("gfx906", "gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1201") if "bf16" in amd_native(a)] == [
        "gfx90a", "gfx942", "gfx1100", "gfx1201",
    ]  # fmt: skip
    for name in ("NVIDIA GeForce GTX 1660 SUPER", "GTX 1650", "Quadro T1000", "NVIDIA T600", "GeForce MX450"):
        assert broken_dtypes(name) == ("fp16",)
    for name in ("Tesla T4", "NVIDIA GeForce RTX 2060", "NVIDIA GeForce GTX 1060 6GB", "NVIDIA RTX A1000"):
        assert broken_dtypes(name) == ()
    unheard_of = [estimated_card_rates(arch, 10)["fp32"].gflops for arch in ("sm_121", "gfx1151", "gfx955", "new")]
    assert all(rate > 1000 for rate in unheard_of)


def test_a_card_is_timed_and_looked_at(monkeypatch):
    """A card whose fp16 convolutions are NaN, as a GTX 1660's are; the work is done by the CPU."""

    def conv2d(picture, *args, **kwargs):
        result = torch.nn.functional.conv2d(picture, *args, **kwargs)
        return result * float("nan") if picture.dtype == torch.float16 else result

    functional = SimpleNamespace(conv2d=conv2d, linear=torch.nn.functional.linear)
    monkeypatch.setattr(speed, "timed", quiet_timing)
    cuda = FakeCuda("some card", (8, 0))
    fake = FakeTorch(cuda=cuda, nn=SimpleNamespace(functional=functional))
    speeds = measure_card(fake, "cuda:0", ("fp32", "fp16", "bf16", "int8"), 10**6, unified=False)
    assert speeds.not_finite == ("fp16",)
    assert set(speeds.rates) == {"fp32", "fp16", "bf16"}
    assert {r.source for r in speeds.rates.values()} == {"measured"}
    assert speeds.link_gbs > 0
    assert cuda.waits > 10, "a time without waiting for the card is no time"


def quiet_timing(fn, repeats, **_):
    before = time.perf_counter()
    fn()
    took = time.perf_counter() - before
    return Timing(took, took, 1.0, quiet=True)


def test_what_timing_found_goes_into_the_host(tmp_path: Path, monkeypatch):
    found = Speeds({"fp32": estimated_card_rates("sm_80", 1)["fp32"]}, 2.0, 300.0, 9.0, ("fp16",), "measured here")
    monkeypatch.setattr(probe_cards, "measure_card", lambda *_, **__: found)
    monkeypatch.setattr(probing, "measure_cpu", lambda *_: Speeds(note="not timed"))
    cuda = FakeCuda("some card", (8, 0))
    host = probed(cuda, tmp_path, timing=True)
    card = host.accelerators[0]
    assert (card.broken, card.bandwidth_gbs, card.link_gbs) == (("fp16",), 300.0, 9.0)
    assert card.rates["fp32"] == found.rates["fp32"]
    assert "NaN" in host.sources["cuda:0.broken"]
    assert cuda.emptied == 1


def test_a_card_that_fails_while_timed_keeps_its_estimates():
    fake = FakeTorch(cuda=FakeCuda("some card", (8, 0)), no_kernel=True)
    speeds = measure_card(fake, "cuda:0", ("fp32",), GIB, unified=False)
    assert speeds.rates == {}
    assert "no kernel image" in speeds.note
