"""The hosts that ship with the loader: each loads, says where its figures come from, and makes sense."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from loader.cards import broken_dtypes, cuda_native, estimated_card_rates
from loader.errors import InputError
from loader.host import GIB, Accelerator, Cpu, Host, host_from_json, host_names, host_to_json, load_host, with_memory
from loader.rules import wheel_has_code

NAMES = {
    "cpu-basic", "cpu-avx2", "cpu-bf16", "cpu-amx", "arm-cpu", "gtx1060-6g", "gtx1660-6g", "jetson-nano-4g", "v100-16g",
    "t4-16g", "rtx2080ti-11g", "rtx3050-8g", "rtx3060-12g", "rtx3070-8g", "rtx4090-24g", "a10g-24g", "l4-24g",
    "a100-40g", "h200-141g", "m2-16g", "mi300x-192g", "arc-a770-16g", "zerogpu-48g",
}  # fmt: skip
NEEDS_OLD_WHEEL = {"gtx1060-6g", "v100-16g", "jetson-nano-4g"}
CURRENT_WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
DOCS = Path(__file__).parent.parent / "docs" / "hosts.md"
every_host = pytest.mark.parametrize("host", [load_host(name) for name in host_names()], ids=host_names())


def test_these_hosts_ship():
    assert set(host_names()) == NAMES


@every_host
def test_a_host_survives_the_way_to_json_and_back(host: Host):
    assert host_from_json(host_to_json(host)) == host
    assert host.name in NAMES
    assert not host.probed


@every_host
def test_figures_are_plausible(host: Host):
    assert GIB < host.ram_bytes < 512 * GIB
    assert 0 < host.free_ram_bytes <= host.ram_bytes
    assert host.cpu.effective_isa == host.cpu.isa
    assert {"fp32", "bf16", "fp16", "int8"} <= set(host.cpu.rates)
    for accelerator in host.accelerators:
        assert 0 < accelerator.free_bytes <= accelerator.memory_bytes
        assert {*accelerator.native, "fp32", "bf16", "fp16"} <= set(accelerator.rates)
        assert accelerator.bandwidth_gbs > 0
        assert accelerator.link_gbs > 0
        assert accelerator.rates["fp32"].gflops > host.cpu.rates["fp32"].gflops
    for rate in (*host.cpu.rates.values(), *(r for a in host.accelerators for r in a.rates.values())):
        assert 0 < rate.gflops < 1e7


def source_keys(host: Host) -> set[str]:
    """Every key a host's sources may have."""
    keys = {f.name for f in fields(Host)} | {f"cpu.{f.name}" for f in fields(Cpu)}
    keys |= {f"{a.device}.{f.name}" for a in host.accelerators for f in fields(Accelerator)}
    keys |= {f"cpu.rates.{dtype}" for dtype in host.cpu.rates}
    return keys | {f"{a.device}.rates.{dtype}" for a in host.accelerators for dtype in a.rates}


@every_host
def test_every_figure_names_its_source(host: Host):
    assert set(host.sources) <= source_keys(host), "a source of something a host does not have"
    wanted = {"ram_bytes", "free_ram_bytes", "disk_free_bytes", "disk_gbs", "compiler"}
    wanted |= {f"cpu.{f}" for f in ("cores", "isa", "rates", "bandwidth_gbs")}
    if host.cpu.bf16_convolution_ratio:
        wanted.add("cpu.bf16_convolution_ratio")
    for a in host.accelerators:
        wanted |= {f"{a.device}.{f}" for f in ("rates", "memory_bytes", "free_bytes", "bandwidth_gbs", "link_gbs")}
        wanted |= {f"{a.device}.{f}" for f in ("native", "runs_code")} | {"wheel_archs"}
        wanted |= {f"{a.device}.broken"} if a.broken else set()
    assert wanted <= set(host.sources)
    assert all(host.sources.values())
    if any(rate.source == "measured" for rate in host.cpu.rates.values()):
        assert "measured" in host.sources["cpu.rates"]


@every_host
def test_bf16_and_fp16_are_native_only_where_the_hardware_has_them(host: Host):
    for a in host.accelerators:
        if a.kind == "cuda":
            capability = divmod(int(a.arch.removeprefix("sm_")), 10)
            assert ("bf16" in a.native) == (capability >= (8, 0))
            assert set(a.native) - {"int8"} == set(cuda_native(capability)) - {"int8"}
            assert a.broken == broken_dtypes(a.name)
        assert "fp32" in a.native
        for dtype in ("bf16", "fp16"):
            if dtype in a.native:
                assert a.rates[dtype].gflops >= a.rates["fp32"].gflops
            else:
                assert a.rates[dtype].gflops < a.rates["fp32"].gflops


@every_host
def test_the_wheel_has_code_for_the_card_or_the_table_says_it_assumes_one(host: Host):
    for a in host.accelerators:
        assert a.runs_code
        assert wheel_has_code(a, host.wheel_archs)
        if host.name in NEEDS_OLD_WHEEL:
            assert not wheel_has_code(a, CURRENT_WHEEL)
            assert a.arch in host.wheel_archs
            assert host.sources["wheel_archs"].startswith("assumed")
        elif a.kind == "cuda":
            assert host.wheel_archs == CURRENT_WHEEL


@every_host
def test_vendor_peaks_agree_with_multiprocessors_times_clock(host: Host):
    """Two ways to the same figure: a slip of the pen in either shows."""
    for a in host.accelerators:
        if a.kind in ("cuda", "rocm"):
            estimate = estimated_card_rates(a.arch, a.multiprocessors, name=a.name)
            for dtype in ("fp32", "fp16"):
                assert 0.4 < a.rates[dtype].gflops / estimate[dtype].gflops < 2.5, (host.name, dtype)


def test_what_makes_each_special_host_special():
    assert load_host("cpu-basic").platform == "spaces"
    zero = load_host("zerogpu-48g")
    assert (zero.platform, zero.compiler, zero.python, zero.torch) == ("zerogpu", False, "3.12.12", "2.11.0")
    assert 44 * GIB < zero.accelerators[0].memory_bytes < 48 * GIB
    jetson = load_host("jetson-nano-4g").accelerators[0]
    assert jetson.unified
    assert "fp16" in jetson.native
    assert load_host("m2-16g").accelerators[0].unified
    assert load_host("gtx1660-6g").accelerators[0].broken == ("fp16",)
    pascal = load_host("gtx1060-6g").accelerators[0]
    assert pascal.rates["fp32"].gflops / pascal.rates["fp16"].gflops == pytest.approx(64, rel=0.02)
    rates = load_host("cpu-bf16").cpu.rates
    assert [rates[d].gflops for d in ("fp32", "bf16", "int8")] == [186, 430, 830]
    assert "avx512_bf16" not in load_host("cpu-basic").cpu.isa


def test_a_host_can_be_given_another_memory():
    card = with_memory(load_host("t4-16g"), 3 * GIB)
    assert (card.accelerators[0].memory_bytes, card.accelerators[0].free_bytes) == (3 * GIB, 3 * GIB)
    assert with_memory(load_host("cpu-basic"), 2 * GIB).free_ram_bytes == 2 * GIB


# --- files that do not describe a host ------------------------------------------------------------------------


def broken_host(tmp_path: Path, change) -> str:
    data = json.loads(host_to_json(load_host("t4-16g")))
    change(data)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(ram_bytes="16 GB"), "ram_bytes"),
        (lambda d: d.pop("cpu"), "cpu"),
        (lambda d: d["cpu"].pop("cores"), "cores"),
        (lambda d: d["cpu"].update(cores=0), "cpu.cores"),
        (lambda d: d["cpu"].update(colour="red"), "colour"),
        (lambda d: d["cpu"]["rates"].pop("fp32"), "cpu.rates.fp32"),
        (lambda d: d["accelerators"][0]["rates"]["fp32"].update(gflops=-1.0), "rates.fp32"),
        (lambda d: d["accelerators"][0].update(native=["fp32", "fp8"]), "native"),
        (lambda d: d["accelerators"][0].update(memory_bytes=0), "cuda:0.memory_bytes"),
        (lambda d: d["accelerators"][0].update(kind="gpu"), "kind"),
        (lambda d: d.update(platform="moon"), "platform"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field_it_is_wrong_in(tmp_path: Path, change, named: str):
    with pytest.raises(InputError, match=named):
        load_host(broken_host(tmp_path, change))


def test_a_file_that_is_no_json_and_a_name_that_is_no_host_are_refused(tmp_path: Path):
    (tmp_path / "half.json").write_text('{"name": "half', encoding="utf-8")
    with pytest.raises(InputError, match="half"):
        load_host(str(tmp_path / "half.json"))
    with pytest.raises(InputError, match="t4-16g"):
        load_host("t4")


# --- documentation ----------------------------------------------------------------------------------------------


def table_row(host: Host) -> str:
    """One line of the table in docs/hosts.md."""
    cells = [f"`{host.name}`", host.title, f"{host.cpu.cores} × {host.cpu.rates['fp32'].gflops / host.cpu.cores:.0f}"]
    cells.append(f"{host.ram_bytes / GIB:.0f}")
    if not host.accelerators:
        return f"| {' | '.join([*cells, '–', '–', '–', '–'])} |"
    a = host.accelerators[0]
    cells += [a.arch, f"{a.memory_bytes / GIB:.1f}{' shared' if a.unified else ''}"]
    cells.append(", ".join(d for d in a.native if d not in a.broken))
    cells.append(" / ".join(f"{a.rates[d].gflops / 1000:.4g}" for d in ("fp32", "fp16", "bf16")))
    return f"| {' | '.join(cells)} |"


@every_host
def test_the_documentation_lists_the_host_as_it_is(host: Host):
    assert table_row(host) in DOCS.read_text(encoding="utf-8")
