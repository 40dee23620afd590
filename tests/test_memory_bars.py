"""Memory part by part on the plan card and after a run, and what every wish is said to cost."""

import re
from dataclasses import replace

import pytest

from adapters import adapter
from adapters.damo_yolo.pipeline import DetectRequest
from kit.images import open_picture
from kit.parts.figures import figures
from kit.parts.memory_bars import held_at_once, measured_bars, predicted_activations, predicted_bars
from kit.parts.plan_card import consequence
from kit.texts import LANGUAGES
from kit.texts.labels import label
from loader.folders import size_text
from loader.host import load_host
from loader.outcome import Result
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

MB = 1_000_000
INSTANTID = adapter("instantid")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run of the detector's preview."""
    engine = engine_on(host_with(), tmp_path_factory.mktemp("bars"))
    wishes = Wishes(variant="preview", size=(320, 320), dtype="fp32")
    request = DetectRequest((open_picture(ROOT / "assets" / "examples" / "coins.png"),))
    *_, result = engine.run(adapter("damo_yolo"), request, wishes)
    # What is really held, counted apart from what the engine says of it.
    modules = engine._opened["damo_yolo"].modules()
    real = {
        name: sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
        for name, module in modules.items()
    }
    yield result, real
    engine.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_part_has_a_bar_with_its_weights_and_what_it_needs_while_it_computes(language):
    made = plan(INSTANTID, load_host("t4-16g"))
    working = predicted_activations(made)
    markup = predicted_bars(made, language)
    for placed in made.components:
        said = label(
            "bars.part",
            language,
            name=placed.name,
            weights=size_text(placed.bytes),
            working=size_text(working[placed.name]),
            device=label("device.cpu", language) if placed.device == "cpu" else placed.device,
        )
        assert f'aria-label="{said}"' in markup
    shares = [tuple(map(float, pair)) for pair in re.findall(r"width:([\d.]+)%.*?width:([\d.]+)%", markup)]
    assert len(shares) == len(made.components)
    assert max(sum(pair) for pair in shares) == pytest.approx(100, abs=0.02), "the largest part fills its bar"
    assert label("bars.sum", language) in markup, "they are not awake together"


def test_activations_are_those_of_the_planned_size():
    host = load_host("t4-16g")
    small = plan(INSTANTID, host, Wishes(size=(512, 512)))
    large = plan(INSTANTID, host, Wishes(size=(1024, 1024)))
    assert predicted_activations(small)["unet"] < predicted_activations(large)["unet"]
    resident = plan(adapter("damo_yolo"), host)
    assert "sleep" not in predicted_bars(resident, "en")


def test_a_run_measures_the_bytes_each_part_really_held(ran):
    result, real = ran
    assert dict(result.component_bytes) == real
    assert real["detector"] > MB


def test_predicted_and_measured_stand_side_by_side_after_a_run(ran):
    result, real = ran
    markup = figures(result, "en")
    placed = result.plan.component("detector")
    assert f"detector, predicted: {size_text(placed.bytes)}" in markup
    assert f"detector, measured: {size_text(real['detector'])}" in markup
    beyond = result.peak_bytes["host"] - real["detector"]
    assert f"While computing, measured: {size_text(beyond)}" in markup
    assert f"While computing, predicted: {size_text(result.plan.peak_bytes['host'] - placed.bytes)}" in markup


def test_a_part_that_was_not_called_is_said_not_to_be_loaded(ran):
    result, _ = ran
    made = plan(INSTANTID, load_host("t4-16g"))
    held = {p.name: p.bytes for p in made.components if p.name != "text_encoder_2"}
    mixed = replace(result, plan=made, component_bytes=held, peak_bytes={"device": 11 * 2**30, "host": 2**30})
    assert "text_encoder_2, measured: not loaded" in measured_bars(mixed, "en")
    assert "未加载" in measured_bars(mixed, "zh")
    assert measured_bars(replace(mixed, component_bytes={}), "en") == ""


def test_what_sleeps_between_stages_is_not_held_at_once():
    made = plan(INSTANTID, load_host("t4-16g"))
    assert {p.residency for p in made.components if p.device != "cpu"} == {"offload"}
    held = {"text_encoder": 10, "text_encoder_2": 20, "identity_net": 100, "unet": 200, "vae": 50, "face_analysis": 7}
    assert held_at_once(made, held, "device") == 300
    assert held_at_once(made, held, "host") == 7
    everything = plan(INSTANTID, load_host("h200-141g"))
    assert {p.residency for p in everything.components} == {"resident"}
    assert held_at_once(everything, held, "device") == 380


def test_streamed_blocks_claim_nothing_about_activations():
    made = plan(INSTANTID, load_host("t4-16g"), Wishes(residency="blocks"))
    streamed = Result((), made, peak_bytes={"device": 5 * 2**30, "host": 2**30}, component_bytes={"unet": 5 * MB})
    assert "unet, measured: 5 MB" in measured_bars(streamed, "en")
    assert "While computing" not in measured_bars(streamed, "en")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("wishes", "row", "change"),
    [
        (Wishes(device="cpu"), "what_if.device", "cuda:0 → CPU"),
        (Wishes(dtype="fp32"), "what_if.dtype", "fp16 → fp32"),
        (Wishes(component_dtype={"unet": "fp32"}), "what_if.dtype", "unet"),
        (Wishes(residency="dropped"), "what_if.residency", None),
        (Wishes(precision_first=True), "what_if.dtype", "fp16 → fp32"),
        (Wishes(compile="default"), "what_if.compile", "→ default"),
        (Wishes(variant="lcm"), "what_if.variant", "sdxl → lcm"),
        (Wishes(size=(512, 512)), "what_if.size", "1024×1024 → 512×512"),
        (Wishes(batch=2), "what_if.amount", "2"),
        (Wishes(steps=5), "what_if.amount", "5"),
        (Wishes(force=True), "what_if.residency", None),
    ],
)
def test_every_wish_says_what_it_changes_and_costs_before_the_run(wishes, row, change, language):
    host = load_host("t4-16g")
    baseline, made = plan(INSTANTID, host), plan(INSTANTID, host, wishes)
    assert made.fits
    said = consequence(made, baseline, language)
    assert label(row, language) in said
    assert change is None or change in said
    assert re.search(r"\d+\.?\d* (s|ms|min|h) → \d", said)
    assert "GiB" in said
    if wishes.compile:
        assert label("plan.compile_cost", language, seconds="30.0 s") in said


def test_a_wish_without_effect_says_so_too():
    host = load_host("t4-16g")
    made = plan(INSTANTID, host, Wishes(allow_smaller=True))
    assert consequence(made, plan(INSTANTID, host), "en") == label("plan.same", "en")
