"""InstantID planned for cards of 6 to 80 GB, a T4, laptops and hosts without an accelerator."""

from dataclasses import replace

import pytest
import torch

from adapters.instantid.networks import build
from adapters.instantid.spec import SPEC
from loader.host import Host, load_host
from loader.plan import Plan, plan
from loader.wishes import Wishes

GIB = 2**30
SIDES = (6, 8, 12, 16, 24, 80)
PUBLISHED = [variant.name for variant in SPEC.variants if variant.provenance == "published"]


def card(gib: int) -> Host:
    """A recent card of so much memory, nearly all of it free."""
    host = load_host("rtx4090-24g")
    accelerator = replace(host.accelerators[0], memory_bytes=gib * GIB, free_bytes=int(gib * GIB * 0.95))
    return replace(host, name=f"{gib} GB", accelerators=(accelerator,))


def residency(made: Plan) -> str:
    return made.component("unet").residency


@pytest.mark.parametrize("variant", PUBLISHED)
@pytest.mark.parametrize("gib", SIDES)
def test_every_card_draws_within_its_memory(gib, variant):
    made = plan(SPEC, card(gib), Wishes(variant=variant))
    assert made.fits
    assert made.peak_bytes["device"] <= made.budget_bytes["device"] < gib * GIB
    assert made.peak_bytes["host"] <= made.budget_bytes["host"]
    placed = {p.name: p for p in made.components}
    assert placed["face_projection"].compute_dtype == placed["face_projection"].storage_dtype == "fp32"
    assert placed["face_analysis"].device == "cpu"
    assert placed["vae"].compute_dtype in ("bf16", "fp32"), "fp16 overflows in the decoder"
    assert {placed[name].compute_dtype for name in ("unet", "identity_net", "text_encoder_2")} == {"fp16"}


def test_more_memory_never_draws_slower_or_smaller():
    plans = [plan(SPEC, card(gib)) for gib in SIDES]
    order = ("blocks", "offload", "resident")
    ranks = [order.index(residency(made)) for made in plans]
    assert ranks == sorted(ranks)
    assert {residency(made) for made in plans} == set(order)
    seconds = [made.predicted_seconds for made in plans]
    assert seconds == sorted(seconds, reverse=True)
    assert {made.size for made in plans} == {(1024, 1024)}


@pytest.mark.parametrize(("host", "dtype"), [("t4-16g", "fp16"), ("v100-16g", "fp16"), ("gtx1660-6g", "fp32")])
def test_cards_without_bf16_decode_in_fp32(host, dtype):
    made = plan(SPEC, load_host(host))
    assert made.fits
    assert made.component("vae").compute_dtype == "fp32"
    assert made.component("unet").compute_dtype == dtype


def test_bf16_is_refused_on_a_t4_with_what_works():
    refused = plan(SPEC, load_host("t4-16g"), Wishes(dtype="bf16"))
    assert not refused.fits
    assert refused.refusal is not None


@pytest.mark.parametrize("base", ["cpu-avx2", "cpu-bf16", "cpu-basic"])
def test_a_cpu_of_16_gb_draws_by_lcm_or_says_what_would(base):
    host = load_host(base)
    host = replace(host, ram_bytes=16 * GIB, free_ram_bytes=14 * GIB)
    made = plan(SPEC, host)
    assert made.fits, made.refusal
    assert (made.variant, made.steps) == ("lcm", 5)
    assert made.peak_bytes["host"] <= made.budget_bytes["host"]
    assert made.component("unet").storage_dtype == "bf16", "half the bytes, whatever it computes in"
    assert made.predicted_seconds < SPEC.target_seconds
    large = plan(SPEC, host, Wishes(variant="sdxl_controls", dtype="fp32", size=(1024, 1024)))
    assert large.fits or large.refusal.params["needs_gib"] > large.refusal.params["free_gib"]


def test_time_follows_what_is_asked_in_a_step():
    host = card(80)
    seconds = {name: plan(SPEC, host, Wishes(variant=name, steps=30)).predicted_seconds for name in PUBLISHED}
    assert seconds["sdxl"] == pytest.approx(seconds["lcm"], rel=0.05)
    for name in ("sdxl_pose", "sdxl_canny", "sdxl_depth"):
        assert 1.15 < seconds[name] / seconds["sdxl"] < 1.5
    assert seconds["sdxl_controls"] > seconds["sdxl_canny"]
    small = plan(SPEC, host, Wishes(size=(512, 512))).predicted_seconds
    assert small < seconds["sdxl"] / 3


def test_components_have_the_parameters_they_announce():
    for name, component in {c.name: c for v in SPEC.variants[:7] for c in v.components}.items():
        if name == "face_analysis":
            continue
        with torch.device("meta"):
            network = build("identity_net" if name.endswith("_net") else name, "sdxl")
        assert sum(p.numel() for p in network.parameters()) == component.n_params, name


def test_every_file_fills_something_and_has_terms():
    for variant in SPEC.variants:
        names = {component.name for component in variant.components}
        files = [weights.file for weights in variant.weights]
        assert len(files) == len(set(files))
        assert all(set(weights.fills) <= names for weights in variant.weights)
        filled = {name for weights in variant.weights for name in weights.fills}
        assert filled == (names if variant.weights else set())
    terms = {w.licence.name for w in SPEC.variant("sdxl").weights if w.licence.accept}
    assert terms == {"InstantID research terms", "InsightFace model terms"}
    assert SPEC.variant("miniature").download_bytes == 0
    assert SPEC.variant("sdxl").download_bytes == pytest.approx(11.58e9, rel=0.01)
