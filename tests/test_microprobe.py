"""Single operations: timed here, kept by machine, and what they change in a plan."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import adapter
from adapters.metric3d.networks import build
from loader import micro, microprobe
from loader.attention import ByLength, attend, attend_blocks, product
from loader.decision import Situation
from loader.host import Host, OpTime, host_from_json, host_to_json, load_host
from loader.kernel_rules import choose_attention, choose_format
from loader.knowledge import EMPTY
from loader.measure import Timing
from loader.memory import Precision
from loader.place import place
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import host_with


def convolutions(contiguous: float, last: float, dtype: str = "bf16") -> tuple[OpTime, ...]:
    return (
        OpTime("convolution", dtype, contiguous, "contiguous"),
        OpTime("convolution", dtype, last, "channels_last"),
    )


def attentions(fused: dict[int, float], blocks: dict[int, float], dtype: str = "bf16") -> tuple[OpTime, ...]:
    return tuple(
        OpTime("attention", dtype, seconds, kernel=kernel, length=length)
        for kernel, times in (("sdpa", fused), ("blocks", blocks))
        for length, seconds in times.items()
    )


def with_cpu_micro(host: Host, figures: tuple[OpTime, ...]) -> Host:
    return replace(host, cpu=replace(host.cpu, micro=figures))


# --- what figures say -------------------------------------------------------------------------------------------


def test_gains_compare_each_dtype_at_its_best():
    figures = (*convolutions(4.0, 2.0, "fp32"), *convolutions(3.0, 0.5))
    assert micro.gain(figures, "convolution", "bf16") == 4.0
    assert micro.layout_gain(figures, "bf16") == 6.0
    assert micro.gain(figures, "linear", "bf16") is None
    assert micro.layout_gain((), "bf16") is None


def test_attention_is_compared_at_the_longest_length_both_were_timed_at():
    figures = (
        *attentions({1024: 1.0, 4096: 20.0}, {}, "fp32"),
        *attentions({1024: 0.5, 4096: 10.0, 8192: 1.0}, {4096: 5.0}),
    )
    assert micro.gain(figures, "attention", "bf16") == 4.0


@pytest.mark.parametrize(
    ("fused", "blocks", "expected"),
    [
        ({1024: 2.0, 2048: 6.0, 4096: 20.0}, {1024: 1.0, 2048: 5.0, 4096: 25.0}, (1024, 2048, 1.2)),
        ({1024: 1.0, 2048: 6.0, 4096: 20.0}, {1024: 1.0, 2048: 5.0, 4096: 10.0}, (2048, 6144, 1.2)),
        ({1024: 1.0, 2048: 1.0}, {1024: 1.0, 2048: 0.95}, None),
        ({1024: 1.0}, {2048: 0.1}, None),
    ],
)
def test_blocks_are_used_where_they_won(fused, blocks, expected):
    found = micro.blocks_range(attentions(fused, blocks), "bf16")
    assert found == (expected if expected is None else (*expected[:2], pytest.approx(expected[2])))


# --- what they change in a plan ---------------------------------------------------------------------------------


def test_a_timed_layout_outweighs_the_typical_one():
    host, spec = load_host("cpu-amx"), adapter("damo_yolo")
    typical = plan(spec, host)
    assert typical.components[0].memory_format == "channels_last"
    assert next(d for d in typical.decisions if d.rule == "channels_last").params["evidence"] == "typical"
    slower = plan(spec, with_cpu_micro(host, convolutions(1.0, 2.0)))
    assert slower.components[0].memory_format == "contiguous"
    note = next(d for d in slower.decisions if d.rule == "contiguous")
    assert note.rejected[0].number == 2.0
    faster = plan(spec, with_cpu_micro(host, convolutions(3.0, 1.0)))
    assert next(d for d in faster.decisions if d.rule == "channels_last").params == {
        "times": 3.0,
        "evidence": "measured",
    }


def test_a_timed_convolution_takes_bf16_off_a_detector():
    host, spec = load_host("cpu-amx"), adapter("damo_yolo")
    assert plan(spec, host).components[0].compute_dtype == "bf16"
    slow = (*convolutions(1.0, 1.0, "fp32"), *convolutions(3.0, 2.5))
    made = plan(spec, with_cpu_micro(host, slow))
    assert made.components[0].compute_dtype == "fp32"
    assert next(d for d in made.decisions if d.rule == "bf16_cpu_measured_slow").rejected[0].number == 2.5


def test_a_dtype_that_gave_nan_is_left_out_on_cpu_and_card():
    nan = (OpTime("linear", "bf16", 1.0, finite=False),)
    made = plan(adapter("metric3d"), with_cpu_micro(load_host("cpu-amx"), nan))
    assert made.components[0].compute_dtype == "fp32"
    assert "bf16_broken" in {d.rule for d in made.decisions}
    host = load_host("rtx4090-24g")
    card = replace(host.accelerators[0], micro=(OpTime("linear", "bf16", 1.0, finite=False),))
    made = plan(adapter("metric3d"), replace(host, accelerators=(card,)))
    assert made.components[0].compute_dtype == "fp16"


def test_attention_by_blocks_is_planned_where_it_was_timed_to_be_faster():
    figures = attentions({1024: 2.0, 4096: 30.0}, {1024: 1.0, 4096: 10.0})
    host = with_cpu_micro(load_host("cpu-amx"), figures)
    made = plan(adapter("metric3d"), host, Wishes(variant="vit_small"))
    assert made.components[0].attention == "blocks:1024-6144"
    note = next(d for d in made.decisions if d.rule == "attention_blocks")
    assert (note.got, note.rejected[0].number) == ("blocks", 2.0)
    assert plan(adapter("metric3d"), host, Wishes(variant="vit_small", dtype="fp32")).components[0].attention == "sdpa"


def test_without_figures_rules_say_so():
    situation = Situation(adapter("metric3d"), load_host("cpu-avx2"), Wishes(), EMPTY)
    component = adapter("metric3d").variant("convnext_tiny").components[0]
    layout, notes = choose_format(situation, component, None, Precision("fp32", "fp32"))
    assert (layout, notes[0].params["evidence"]) == ("channels_last", "typical")
    assert choose_attention(situation, component, None, Precision("fp32", "fp32")) == ("sdpa", ())


# --- the products -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    heads=st.integers(1, 3),
    width=st.sampled_from([4, 8]),
    biased=st.booleans(),
)
def test_blocks_compute_what_the_fused_product_computes(monkeypatch_rows, queries, keys, heads, width, biased):
    generator = torch.Generator().manual_seed(queries * 41 + keys)
    query, key, value = (torch.randn(2, heads, n, width, generator=generator) for n in (queries, keys, keys))
    bias = torch.randn(1, heads, queries, keys, generator=generator) if biased else None
    torch.testing.assert_close(
        attend_blocks(query, key, value, bias), attend(query, key, value, bias), atol=2e-6, rtol=1e-5
    )


@pytest.fixture(scope="module")
def monkeypatch_rows():
    """Blocks of seven rows, so that small inputs have several and a last one that is not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loader.attention.BLOCK_ROWS", 7)
        yield


def test_a_named_product_is_put_into_a_placed_network():
    spec = adapter("metric3d")
    figures = attentions({1024: 2.0}, {1024: 1.0}, "fp32")
    host = with_cpu_micro(load_host("cpu-avx2"), figures)
    placement = plan(spec, host, Wishes(variant="vit_small")).component("depth_model")
    config = {"encoder": {"embed_dim": 24, "depth": 1, "num_heads": 2}, "decoder": {}}
    config["decoder"] = {
        "feature_channels": [8, 16, 24, 24],
        "decoder_channels": [8, 8, 16, 24, 24],
        "hidden_channels": [8, 8, 8, 8],
    }
    network = place(build("depth_model", "vit_small", **config), placement)
    used = {m.attend for m in network.modules() if hasattr(m, "attend")}
    assert used == {ByLength(1024, 1536)}


def test_names_of_products():
    assert product("sdpa") is attend
    assert product("blocks:10-20") == ByLength(10, 20)
    for wrong in ("flash", "blocks:", "blocks:1", "blocks:a-b"):
        with pytest.raises(ValueError, match="no attention product"):
            product(wrong)


def test_lengths_outside_the_span_take_the_fused_product(monkeypatch):
    calls = []
    monkeypatch.setattr("loader.attention.attend_blocks", lambda *a: calls.append(a[1].shape[-2]))
    monkeypatch.setattr("loader.attention.BLOCK_ROWS", 4)
    for length in (4, 8, 16, 17):
        tensors = (torch.ones(1, 1, length, 2),) * 3
        ByLength(8, 16)(*tensors)
    assert calls == [8, 16]


# --- timing and keeping -----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Every timing is quiet, and cases are few: what is kept is what is asked, whatever else this machine does."""
    monkeypatch.setattr(microprobe, "timed", lambda *_, **__: Timing(1e-3, 1e-3, 1.0, quiet=True))
    monkeypatch.setattr(microprobe, "_LENGTHS", (16,))
    monkeypatch.setattr(microprobe, "Quiet", Undisturbed)


class Undisturbed:
    """A ``Quiet`` that always held."""

    held = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_every_operation_is_timed_once_and_kept(quick, tmp_path):
    host = host_with()
    first = microprobe.with_micro(host, tmp_path, {"ANYHOST_PROBE_SECONDS": "60"})
    seen = {(op.operation, op.dtype) for op in first.cpu.micro}
    assert seen >= {(o, d) for o in ("convolution", "linear", "attention", "normalisation") for d in ("fp32", "bf16")}
    assert all(op.finite for op in first.cpu.micro)
    assert {op.kernel for op in first.cpu.micro if op.operation == "attention"} == {"sdpa", "blocks"}
    again = microprobe.with_micro(host, tmp_path, {"ANYHOST_PROBE_SECONDS": "0"})
    assert again.cpu.micro == first.cpu.micro
    assert "timed before" in again.sources["cpu.micro"]
    assert host_from_json(host_to_json(again)).cpu.micro == first.cpu.micro


def test_figures_of_another_processor_limit_or_torch_are_not_used(quick, tmp_path):
    host = host_with()
    microprobe.with_micro(host, tmp_path, {"ANYHOST_PROBE_SECONDS": "60"})
    nothing = {"ANYHOST_PROBE_SECONDS": "0"}
    limited = replace(host, cpu=replace(host.cpu, limits=("ONEDNN_MAX_CPU_ISA=AVX2",), effective_isa=("avx2",)))
    assert microprobe.with_micro(limited, tmp_path, nothing).cpu.micro == ()
    other = replace(host, cpu=replace(host.cpu, name="another"))
    assert microprobe.with_micro(other, tmp_path, nothing).cpu.micro == ()
    keys = {microprobe.identity(torch, h, None) for h in (host, limited, other)}
    assert len(keys) == 3


def test_what_was_disturbed_is_left_out_and_timed_at_the_next_start(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(microprobe, "timed", lambda *_, **__: Timing(1e-3, 9e-3, 3.0, quiet=False))
    host = host_with()
    first = microprobe.with_micro(host, tmp_path, {"ANYHOST_PROBE_SECONDS": "60"})
    assert first.cpu.micro == ()
    assert "left for the next start" in first.sources["cpu.micro"]
    monkeypatch.setattr(microprobe, "timed", lambda *_, **__: Timing(1e-3, 1e-3, 1.0, quiet=True))
    assert microprobe.with_micro(host, tmp_path, {"ANYHOST_PROBE_SECONDS": "60"}).cpu.micro


@pytest.mark.parametrize("slow", [False, True])
def test_a_slow_call_teaches_as_little_as_a_fast_one_when_it_was_disturbed(quick, monkeypatch, tmp_path, slow):
    """A neighbour makes calls slow: seen by the spread of several, or by threads that had to wait."""
    monkeypatch.setattr(microprobe, "_SLOW_S", 0.0 if slow else 1e9)
    monkeypatch.setattr(Undisturbed, "held", False)
    repeats = []
    monkeypatch.setattr(
        microprobe, "timed", lambda _, n, **__: repeats.append(n) or Timing(1e-3, 1e-3, 1.0, quiet=True)
    )
    assert microprobe.with_micro(host_with(), tmp_path, {"ANYHOST_PROBE_SECONDS": "60"}).cpu.micro == ()
    assert set(repeats) == {1 if slow else 5}


def test_packed_layers_are_timed_beside_plain_ones(quick, tmp_path):
    found = microprobe.with_micro(host_with(), tmp_path, {"ANYHOST_PROBE_SECONDS": "60"}).cpu.micro
    packed = {(op.operation, op.dtype) for op in found if op.kernel == "packed"}
    assert packed == {(o, d) for o in ("convolution", "linear") for d in ("fp32", "bf16")}
    assert micro.packing_gain(found, "bf16") == pytest.approx(1.0)


def test_the_budget_is_kept(tmp_path):
    import time

    started = time.perf_counter()
    microprobe.with_micro(host_with(), tmp_path, {"ANYHOST_PROBE_SECONDS": "0.3"})
    # One case may be under way when time is up; it is one of milliseconds, or of a CPU that lacks the instructions.
    assert time.perf_counter() - started < 6


@pytest.mark.parametrize("text", ["", "{", "[]", '{"KEY": [{"operation": 3}]}', '{"KEY": 5}'])
def test_a_spoilt_file_is_as_good_as_none(quick, tmp_path, text):
    host = host_with()
    key = microprobe.identity(torch, host, None)
    (tmp_path / microprobe.FILE).write_text(text.replace("KEY", key))
    assert microprobe.with_micro(host, tmp_path, {"ANYHOST_PROBE_SECONDS": "0"}).cpu.micro == ()
    assert microprobe.with_micro(host, tmp_path, {"ANYHOST_PROBE_SECONDS": "60"}).cpu.micro
    assert json.loads((tmp_path / microprobe.FILE).read_text())[key]


def test_a_folder_that_cannot_be_written_costs_nothing_else(quick, tmp_path):
    (tmp_path / "file").write_text("")
    assert microprobe.with_micro(host_with(), tmp_path / "file", {"ANYHOST_PROBE_SECONDS": "60"}).cpu.micro


def test_an_unreadable_budget_is_the_default():
    assert microprobe.budget_from({"ANYHOST_PROBE_SECONDS": "much"}) == microprobe.BUDGET_S
    assert microprobe.budget_from({}) == microprobe.BUDGET_S
    assert microprobe.budget_from({"ANYHOST_PROBE_SECONDS": "-1"}) == 0


def test_the_driver_is_part_of_a_card_s_identity(tmp_path):
    assert microprobe.driver_version(tmp_path) == ""
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 580.1\nGCC")
    assert microprobe.driver_version(tmp_path) == "NVRM version: 580.1"
