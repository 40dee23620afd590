"""What the spec announces, counted over the networks themselves on ``meta``; what hosts are given."""

import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from adapters.hunyuan3d.grid import decode_points, sdf_slab
from adapters.hunyuan3d.loading import network_variant
from adapters.hunyuan3d.miniature import CONFIGS
from adapters.hunyuan3d.modules import DEVICE_CELLS_PER_CHUNK, LatentCodec, ViewDenoiser
from adapters.hunyuan3d.networks import build
from adapters.hunyuan3d.pipeline import Hunyuan3D
from adapters.hunyuan3d.products import MeshRequest, Products
from adapters.hunyuan3d.shaping import ROWS_PER_UNIT
from adapters.hunyuan3d.spec import SPEC
from adapters.hunyuan3d.view import PRESETS, preset_on, variant_for
from loader.host import load_host
from loader.memory import Precision, Shape, activation_bytes, peaks
from loader.plan import plan
from loader.wishes import Wishes

META = torch.device("meta")
MIB, GIB = 2**20, 2**30


class Live(TorchDispatchMode):
    """The most bytes that live at once among tensors made inside."""

    def __init__(self, module):
        super().__init__()
        self.known = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
        self.held, self.used, self.peak = Counter(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        return out

    def hold(self, tensor):
        storage = tensor.untyped_storage()
        key, count = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        if not self.held[key]:
            self.used += count
            self.peak = max(self.peak, self.used)
        self.held[key] += 1
        weakref.finalize(tensor, self.release, key, count)

    def release(self, key, count):
        self.held[key] -= 1
        if not self.held[key]:
            del self.held[key]
            self.used -= count


def fused(query, key, value, **_):
    """Attention that keeps no scores, as every device's fused kernel."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def empty(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device=META)


INPUTS = {
    ("lite", "vision_encoder"): lambda: (empty(1, 3, 224, 224),),
    ("std", "vision_encoder_2"): lambda: (empty(1, 3, 224, 224),),
    ("lite", "view_unet"): lambda: (
        *(empty(2, 4, 120, 80), empty(2, 4, 80, 80), empty(1, dtype=torch.int32), empty(2, 77, 1024)),
    ),
    ("std", "view_unet"): lambda: (
        *(empty(2, 4, 192, 128), empty(2, 4, 64, 64), empty(1, dtype=torch.int32)),
        *(empty(2, 77, 2048), empty(2, 1280), empty(2, 6)),
    ),
    ("lite", "vae"): lambda: (empty(1, 4, 120, 80), "decode"),
    ("std", "vae"): lambda: (empty(1, 4, 192, 128), "decode"),
    ("lite", "image_encoder"): lambda: (empty(7, 3, 504, 504), empty(7, 20)),
    ("lite", "triplane_transformer"): lambda: (empty(1, 9079, 768),),
    ("text_lite", "painter_vae"): lambda: (empty(1, 4, 128, 128), "decode"),
}


@pytest.mark.parametrize(("variant", "component"), INPUTS)
def test_activations_are_what_lives_at_once(variant, component, monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    declared = SPEC.variant(variant)
    with META:
        module = build(component, network_variant(component, declared))
        wrapped = {"view_unet": ViewDenoiser, "vae": LatentCodec, "painter_vae": LatentCodec}.get(component)
        module = wrapped(module) if wrapped else module
        inputs = INPUTS[variant, component]()
        with Live(module) as live, torch.no_grad():
            module(*inputs)
    predicted = activation_bytes(declared.component(component), Shape(declared.sizes[0]), "fp32")
    assert predicted == pytest.approx(live.peak, rel=0.15)


def test_the_decoder_s_share_of_a_card_is_its_calls_and_the_host_s_is_the_grid():
    with META:
        decoder, planes = build("triplane_decoder", "svrm"), empty(1, 3, 120, 256, 256)
        seen = []
        for call in (
            lambda p: sdf_slab(decoder, p, 384, (0, ROWS_PER_UNIT), cells_per_chunk=DEVICE_CELLS_PER_CHUNK),
            lambda p: decode_points(decoder, p, empty(1, 200_000, 3)),
        ):
            with Live(decoder) as live, torch.no_grad():
                call(planes.clone())  # moved to the device with each call
            seen.append(live.peak)
    declared = SPEC.variant("lite").component("triplane_decoder")
    assert activation_bytes(declared, Shape((960, 640)), "fp32") == pytest.approx(max(seen), rel=0.15)
    # Grid and surface: the grid twice, and the triangles of a detailed object.
    assert 2 * 384**3 * 4 < declared.activation.host_fixed < 2.5e9


@pytest.mark.parametrize("host", ["a10g-24g", "cpu-bf16"])
def test_what_follows_the_decoder_is_planned_in_host_memory(host):
    made = plan(SPEC, load_host(host), Wishes(variant="lite", compile="none"))
    declared = SPEC.variant("lite")
    precisions = {p.name: Precision(p.storage_dtype, p.compute_dtype) for p in made.components}
    accelerator = load_host(host).accelerator(made.device)
    without = replace(
        declared,
        components=tuple(replace(c, activation=replace(c.activation, host_fixed=0)) for c in declared.components),
    )
    small, whole = (
        peaks(variant, precisions, made.shape, "resident", accelerator=accelerator) for variant in (without, declared)
    )
    assert whole.device == small.device
    if accelerator is not None:
        assert whole.host - small.host == 720 * MIB - activation_bytes(
            declared.component("cut_out"), made.shape, "fp32"
        )


@pytest.mark.parametrize("variant", [v.name for v in SPEC.variants])
def test_parameters_are_those_of_the_networks(variant):
    declared = SPEC.variant(variant)
    with META:
        for component in declared.components:
            if component.name == "cut_out":
                continue
            base = network_variant(component.name, declared)
            config = CONFIGS[base][component.name] if variant == "miniature" else {}
            module = build(component.name, base, **config)
            assert sum(p.numel() for p in module.parameters()) == component.n_params, component.name


def test_every_component_but_the_miniature_s_has_a_file():
    for variant in SPEC.variants:
        filled = {name for weights in variant.weights for name in weights.fills}
        names = {component.name for component in variant.components}
        assert filled == (set() if variant.name == "miniature" else names)
        # The terms cover everything that is not the cut-out's.
        assert all(w.licence.accept for w in variant.weights if w.file != "u2net.onnx")


def test_uses_are_the_components_of_the_stages_that_are_missing():
    from PIL import Image

    pipeline, host = Hunyuan3D({}), load_host("t4-16g")
    lite = plan(SPEC, host, Wishes(variant="lite"))
    words = plan(SPEC, host, Wishes(variant="text_lite", residency="offload"))
    picture = MeshRequest(Image.new("RGB", (9, 9)))
    assert pipeline.uses(picture, lite) == tuple(c.name for c in SPEC.variant("lite").components)
    assert pipeline.uses(MeshRequest(words="a"), words) == tuple(c.name for c in SPEC.variant("text_lite").components)
    assert "painter" not in pipeline.uses(picture, words)
    made = Products(cut=Image.new("RGBA", (9, 9)), views=(Image.new("RGB", (9, 9)),) * 7)
    later = MeshRequest(Image.new("RGB", (9, 9)), finished=made)
    assert pipeline.uses(later, lite) == ("image_encoder", "triplane_transformer", "triplane_decoder")


@pytest.mark.parametrize(
    ("host", "variant", "residency"),
    [
        ("h200-141g", "std", "resident"),
        ("a10g-24g", "std", "resident"),
        ("rtx3060-12g", "std", "offload"),
        ("cpu-bf16", "lite", "resident"),
    ],
)
def test_hosts_are_given_what_fits(host, variant, residency):
    made = plan(SPEC, load_host(host))
    assert (made.fits, made.variant) == (True, variant)
    assert made.component("view_unet").residency == residency


def test_words_on_a_small_card_run_alone():
    made = plan(SPEC, load_host("rtx3060-12g"), Wishes(variant="text_lite"))
    assert made.fits
    assert made.component("painter").residency != "resident"
    # One stage awake at a time: less than the two largest networks together.
    stages = [c.n_params * 2 for c in SPEC.variant("text_lite").components]
    assert made.peak_bytes["device"] < sum(sorted(stages)[-2:]) + 2 * GIB


def test_less_memory_means_tiles_and_a_coarser_grid_before_smaller_models():
    from loader.decision import Failure
    from loader.plan import relax

    made = plan(SPEC, load_host("a10g-24g"), Wishes(variant="lite"))
    assert made.savers == ()
    assert relax(made, Failure("out_of_memory", "vae")).savers == ("vae_tiling", "coarse_grid")


def test_presets_and_the_variant_they_wish_for():
    cpu, card = load_host("cpu-bf16"), load_host("a10g-24g")
    assert preset_on("standard", cpu).steps == SPEC.cpu_only.steps
    assert preset_on("standard", card).steps is None
    assert [PRESETS[name].faces for name in ("draft", "standard", "best")] == [10_000, 40_000, 90_000]
    planned = plan(SPEC, card)
    assert variant_for(words=False, base=None, planned=planned) == ""
    assert variant_for(words=True, base=None, planned=planned) == f"text_{planned.variant}"
    assert variant_for(words=True, base="lite", planned=planned) == "text_lite"
    assert variant_for(words=False, base="std", planned=planned) == "std"
    assert variant_for(words=True, base="miniature", planned=planned) == "miniature"
