"""InstantID on an accelerator, played by CPU memory: who computes where and in what, and what overflows there.

The failure of the field: the face projection was no component, so no hook knew of it; under model offload it stayed on
the CPU in half precision while everything around it was moved.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from adapters.instantid import loading
from adapters.instantid.denoise import project_face
from adapters.instantid.networks import Resampler, build
from adapters.instantid.networks.miniature import miniature, seeded
from loader.host import load_host
from loader.pipeline import pipeline_of
from loader.plan import plan
from loader.wishes import Wishes
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.instantid_runs import SPEC, TINY, photo, pictures, request, result_of, tiny
from tests.machines import engine_on, host_with

# diffusers' schedulers hand tensors to numpy, whose own ways of converting them predate NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
GIB = 2**30
SMALL = tiny(size=(64, 64), steps=1)
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(autouse=True)
def _numbers_reach_the_device(monkeypatch):
    """``torch.tensor`` cannot be taught the device from Python; made on the CPU and moved it is the same."""
    original = torch.tensor

    def tensor(*args, device=None, **kwargs):
        made = original(*args, **kwargs)
        return made if device is None else made.to(device)

    monkeypatch.setattr(torch, "tensor", tensor)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """In fp32 on the CPU."""
    engine = engine_on(host_with(), tmp_path_factory.mktemp("expected"))
    drawn = pictures(result_of(engine, request(), replace(SMALL, dtype="fp32")))[0]
    engine.close()
    return drawn


@pytest.fixture
def projected(monkeypatch):
    """Device and precision the face projection computed with, inputs and weights, at each call."""
    seen: list[tuple[str, torch.dtype, str, torch.dtype]] = []
    original = Resampler.forward

    def forward(self, embeddings):
        weight = self.proj_in.weight
        seen.append((str(weight.device), weight.dtype, str(embeddings.device), embeddings.dtype))
        return original(self, embeddings)

    monkeypatch.setattr(Resampler, "forward", forward)
    return seen


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("residency", ["resident", "offload", "dropped"])
def test_the_face_projection_computes_in_fp32_where_everything_else_does(
    tmp_path, projected, expected, dtype, residency
):
    with fake_accelerator(GIB) as memory:
        engine = engine_on(host_with(fake_card(GIB, native=("fp32", dtype))), tmp_path)
        result = result_of(engine, request(), replace(SMALL, residency=residency))
        placed = {p.name: (p.device, p.compute_dtype, p.residency) for p in result.plan.components}
        assert placed["face_projection"] == ("fake:0", "fp32", residency)
        assert placed["unet"] == ("fake:0", dtype, residency)
        assert placed["face_analysis"][0] == "cpu"
        # Once in the whole run, on the device, in fp32 from input to weight.
        assert projected == [("fake:0", torch.float32, "fake:0", torch.float32)]
        assert memory.computed[HALVES[dtype]] > memory.computed[torch.float32] > 0
        assert result.trace == ()
        drawn = pictures(result)[0]
        assert np.abs(drawn.astype(int) - expected).mean() < 255 * SPEC.max_drift
        engine.close()


def test_tokens_of_a_half_projection_would_be_wrong():
    """What the fp32 is for: the error of bf16 is far above that of fp32 arithmetic in another order."""
    embedding = torch.randn(1, 512, generator=torch.Generator().manual_seed(1))
    exact = project_face(miniature("face_projection"), embedding)
    low = miniature("face_projection").bfloat16()
    rounded = project_face(lambda embeddings: low(embeddings.bfloat16()), embedding)
    assert (exact.face - rounded.face).abs().max() > 1e-3


def test_every_parameter_belongs_to_a_component():
    """Nothing a request runs through is invisible to planning and moving."""
    made = plan(SPEC, host_with(), TINY)
    pipeline = pipeline_of(SPEC)
    networks = {p.name: pipeline.load(p.name, made, {}, None) for p in made.components}
    for component in SPEC.variant("miniature").components:
        assert sum(p.numel() for p in networks[component.name].parameters()) == component.n_params, component.name
    called = set(pipeline.uses(request(controls={"canny": 0.4}, base=photo()), made))
    assert called == networks.keys() - {"pose_net", "depth_net"}
    inside = {id(p) for network in networks.values() for p in network.parameters()}
    held = [m for network in networks.values() for m in vars(network).values() if isinstance(m, nn.Module)]
    assert all(id(p) in inside for module in held for p in module.parameters())


def overflowing(component: str) -> nn.Module:
    """An autoencoder like SDXL's: inside it grows beyond fp16, and comes back."""
    if component != "vae":
        return miniature(component)
    # As narrow as can be: products in fp16 are slow on a CPU.
    narrow = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
    network = seeded(build("vae", "sdxl", **narrow), "vae")
    with torch.no_grad():
        network.decoder.conv_in.weight *= 2e5
    return network


def test_nan_in_the_fp16_decoder_comes_back_right(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "miniature", overflowing)
    variant = SPEC.variant("miniature")
    components = tuple(
        replace(c, dtypes=("fp16", "fp32") if c.name == "vae" else ("fp32",)) for c in variant.components
    )
    spec = replace(SPEC, variants=(replace(variant, components=components),), default="miniature", smaller=())
    with fake_accelerator(GIB):
        engine = engine_on(host_with(fake_card(GIB, native=("fp32", "fp16"))), tmp_path)
        assert engine.plan(spec, SMALL).component("vae").compute_dtype == "fp16"
        first = list(engine.run(spec, request(), SMALL))[-1]
        assert [(e.unit, e.event) for e in first.trace] == [("decode picture 1 of 1", "not_finite")]
        assert "vae fp16 → fp32" in first.trace[0].plan_change
        exact = list(engine.run(spec, request(), replace(SMALL, dtype="fp32")))[-1]
        assert exact.trace == ()
        assert np.abs(pictures(first)[0].astype(int) - pictures(exact)[0]).max() <= 1
        assert pictures(first)[0].std() > 5
        # What overflowed once is not tried again.
        assert engine.plan(spec, SMALL).component("vae").compute_dtype == "fp32"
        engine.close()


def test_a_card_that_is_too_small_for_all_at_once_draws_the_same(tmp_path, expected):
    """Real limits: networks take turns on the device, and the picture is the same."""
    whole = sum(p.bytes for p in plan(SPEC, host_with(), replace(SMALL, dtype="fp32")).components)
    with fake_accelerator(GIB) as memory:
        engine = engine_on(host_with(fake_card(GIB, native=("fp32",))), tmp_path)
        asked = replace(SMALL, residency="dropped", dtype="fp32")
        drawn = pictures(result_of(engine, request(), asked))[0]
        assert memory.peak < whole
        assert np.abs(drawn.astype(int) - expected).max() <= 1
        engine.close()


def test_published_dtypes_keep_the_decoder_out_of_fp16():
    for host in ("t4-16g", "rtx3060-12g", "v100-16g", "m2-16g"):
        made = plan(SPEC, load_host(host), Wishes())
        if made.fits:
            assert made.component("vae").compute_dtype in ("fp32", "bf16")
            assert made.component("face_projection").compute_dtype == "fp32"
