"""The networks of Hunyuan3D-1: equal to upstream's, strict about names, indifferent to dtype, batch and size."""

import pytest
import torch
from torch.nn import functional as F

from adapters.hunyuan3d import cameras, grid, prepare
from adapters.hunyuan3d.networks import VARIANTS, build, join_views, load_published
from kit import attention
from loader.errors import CheckpointMismatchError
from tests.hunyuan3d_cases import PREFIX, assert_case, big_network, network, normal, seven_views, svrm_tiny
from tests.parity.case import case, manifest

ENCODER = case("hunyuan3d", "svrm_encoder_tiny1")[0]["config"]
TRIPLANE = case("hunyuan3d", "img_to_triplane_tiny1")[0]["config"]
DECODER = case("hunyuan3d", "triplane_decode_tiny")[0]["config"]
UNET = {variant: case("hunyuan3d", f"mvd_{variant}_unet_ref1")[0]["config"] for variant in ("lite", "std")}
TINY = [
    ("image_encoder", "svrm", ENCODER),
    ("triplane_transformer", "svrm", TRIPLANE),
    ("triplane_decoder", "svrm", DECODER),
    ("view_unet", "lite", UNET["lite"]),
    ("view_unet", "std", UNET["std"]),
]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def unet_inputs(variant, batch=2, height=24, width=16, dtype=torch.float32):
    added = None
    if variant == "std":
        times = torch.tensor([[1536.0, 1024, 0, 0, 1536, 1024]] * batch, dtype=dtype)
        added = {"text_embeds": normal(batch, 1280, seed=81).to(dtype), "time_ids": times}
    prompt = normal(batch, 77, UNET[variant]["cross_attention_dim"], seed=71).to(dtype)
    return (
        normal(batch, 4, height, width, seed=51).to(dtype),
        normal(batch, 4, 16, 16, seed=61).to(dtype),
        prompt,
        added,
    )


def both_passes(unet, sample, reference, prompt, added, timestep=666.0):
    return unet.read(sample, timestep, prompt, unet.write(reference, timestep, prompt, added), added)


# Parity


@pytest.mark.parametrize(("name", "seed", "views"), [("tiny1", 11, 3), ("tiny3_nointerp", 13, 2)])
def test_image_encoder(name, seed, views):
    description, tensors = case("hunyuan3d", f"svrm_encoder_{name}")
    module = network("image_encoder", "svrm", **description["config"])
    seen = []
    module.model.norm.register_forward_pre_hook(lambda _module, args: seen.extend(args))
    tokens = module(normal(views, 3, 56, 56, seed=seed), tensors["camera"])
    assert_case(tokens, tensors, "tokens", atol=2e-5, rtol=1e-4)
    assert_case(seen[0], tensors, "x_prenorm", atol=2e-5, rtol=1e-4)
    assert_case(seen[1], tensors, "cam_emb", atol=2e-5, rtol=1e-4)
    assert_case(module.model.positions(4, 4), tensors, "pos_embed_used", atol=1e-6)


@pytest.mark.parametrize("name", ["tiny1", "fullwidth"])
def test_triplane_transformer(name):
    description, tensors = case("hunyuan3d", f"img_to_triplane_{name}")
    tokens = normal(2, 30, 32, seed=31) if name == "tiny1" else normal(1, 500, 768, seed=33)
    tolerance = {"atol": 2e-5, "rtol": 1e-4} if name == "tiny1" else {"atol": 2e-4, "rtol": 1e-3}
    module = big_network("triplane_transformer", "svrm", **description["config"])
    hidden = []
    module.upsampler.register_forward_pre_hook(lambda _module, args: hidden.extend(args))
    assert_case(module(tokens), tensors, "planes", **tolerance)
    assert_case(hidden[0], tensors, "hidden", **tolerance)


def test_triplane_decoder():
    description, tensors = case("hunyuan3d", "triplane_decode_tiny")
    module = network("triplane_decoder", "svrm", **description["config"])
    planes, points = normal(2, 3, 8, 16, 16, seed=41) * 2, tensors["points"]
    field = module(planes, points)
    assert_case(module.features(planes, points[:, :40]), tensors, "features", atol=1e-5, rtol=1e-4)
    assert_case(field.sdf, tensors, "sdf", atol=1e-5, rtol=1e-4)
    assert_case(field.rgb, tensors, "rgb", atol=1e-5, rtol=1e-4)
    # Upstream's normals are forward differences of the same distances.
    steps = [module(planes, (points + step).clamp(-0.6, 0.6)).sdf for step in 0.01 * torch.eye(3)]
    gradient = (torch.cat(steps, dim=-1) - field.sdf) / 0.01
    assert_case(gradient, tensors, "sdf_grad", atol=2e-3, rtol=1e-4)
    assert_case(F.normalize(gradient, dim=-1), tensors, "normal", atol=2e-3)


def test_reconstruction_end_to_end():
    _, tensors = case("hunyuan3d", "svrm_e2e_tiny")
    svrm, views = svrm_tiny(), cameras.camera_vectors()
    pixels = prepare.svrm_pixels(seven_views(), edge=56)
    assert_case(pixels[None], tensors, "input_view", atol=1e-5)
    assert_case(views[None], tensors, "input_view_cam", atol=1e-6)
    assert_case(join_views(svrm.img_encoder(pixels, views)), tensors, "tokens", atol=5e-5, rtol=1e-3)
    planes = svrm(pixels, views)
    assert_case(planes, tensors, "planes", atol=5e-5, rtol=1e-3)
    assert_case(grid.sdf_grid(svrm.render, planes, 32), tensors, "grid_sdf", atol=5e-5, rtol=1e-3)
    ticks = torch.linspace(-0.6, 0.6, 32)
    points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), dim=-1).reshape(1, -1, 3)
    field = grid.decode_points(svrm.render, planes, points, points_per_chunk=5000)
    assert_case(field.rgb, tensors, "grid_rgb", atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize(("variant", "timestep"), [("lite", 666.0), ("std", 699.0)])
def test_view_unet(variant, timestep):
    _, tensors = case("hunyuan3d", f"mvd_{variant}_unet_ref1")
    unet = network("view_unet", variant, **UNET[variant])
    *_, prompt, added = unet_inputs(variant)
    sample, reference = tensors["scaled_latents"], tensors["noisy_cond_scaled"]
    out = both_passes(unet, sample, reference, prompt, added, timestep)
    assert_case(out, tensors, "out", atol=2e-5, rtol=1e-3)
    plain = unet(sample, timestep, prompt, added_cond_kwargs=added).sample
    assert_case(plain, tensors, "out_without_reference", atol=2e-5, rtol=1e-3)


def test_view_unet_as_published():
    description, tensors = case("hunyuan3d", "mvd_lite_unet_full")
    unet = big_network("view_unet", "lite")
    assert {key: unet.config[key] for key in description["config"]} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in description["config"].items()
    }
    sigma = 3.278475761413574
    reference = (normal(2, 4, 16, 16, seed=72) + sigma * tensors["noise"]) / (sigma**2 + 1) ** 0.5
    out = both_passes(unet, tensors["scaled_latents"], reference, normal(2, 77, 1024, seed=73), None, 591.244873046875)
    assert_case(out, tensors, "out", atol=2e-4, rtol=2e-3)


# Names


@pytest.mark.parametrize(
    ("component", "variant", "file", "parameters"),
    [
        ("svrm", "svrm", "svrm_full", 458_688_965),
        ("view_unet", "lite", "mvd_lite_unet", 865_910_724),
        ("view_unet", "std", "mvd_std_unet", 2_567_463_684),
        ("vae", "lite", "mvd_lite_vae", 83_653_863),
        ("vae", "std", "mvd_std_vae", 83_653_863),
        ("vision_encoder", "lite", "mvd_lite_vision_encoder", 632_076_800),
        ("vision_encoder", "std", "mvd_std_vision_encoder", 303_966_208),
        ("vision_encoder_2", "std", "mvd_std_vision_encoder_2", 1_844_907_264),
        ("text_encoder", "lite", "mvd_lite_text_encoder", 340_387_840),
    ],
)
def test_names_and_shapes_are_the_published_ones(component, variant, file, parameters):
    published = manifest("hunyuan3d", file)
    with torch.device("meta"):
        module = build(component, variant)
        state = {name: torch.empty(shape, dtype=torch.float16) for name, shape in published.items()}
    prefix = "text_model." if component == "text_encoder" else ""
    assert {f"{prefix}{name}": list(tensor.shape) for name, tensor in module.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    load_published(module, component, state)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float16}


@pytest.mark.parametrize("component", sorted(PREFIX))
def test_a_part_takes_its_share_of_the_whole_file(component):
    published = manifest("hunyuan3d", "svrm_full")
    with torch.device("meta"):
        module = build(component, "svrm")
        state = {name: torch.empty(shape) for name, shape in published.items()}
    load_published(module, component, state)
    load_published(module, "svrm", state)
    share = {name: tensor for name, tensor in state.items() if name.startswith(PREFIX[component])}
    load_published(module, component, share)
    name = sorted(share)[-1]
    with pytest.raises(CheckpointMismatchError, match=rf"missing: {name}; 1 unexpected: {name}x"):
        load_published(module, component, {**{k: v for k, v in state.items() if k != name}, f"{name}x": state[name]})
    with pytest.raises(CheckpointMismatchError, match="unexpected: stray"):
        load_published(module, component, {**state, "stray": state[name]})
    with pytest.raises(CheckpointMismatchError, match=rf"of another shape: {name}"):
        load_published(module, component, {**share, name: torch.empty(3, 3, 3)})


@pytest.mark.parametrize(("component", "kind"), [("vision_encoder", "vision"), ("text_encoder", "text")])
def test_clip_loaded_from_meta_runs(component, kind):
    config = case("hunyuan3d", "mvd_lite_loop_small")[0]["config"][kind]
    source = network(component, "lite", **config)
    prefix = "text_model." if kind == "text" else ""
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    state[f"{kind}_model.embeddings.position_ids"] = torch.arange(77)[None]
    with torch.device("meta"):
        module = build(component, "lite", **config)
    load_published(module, component, state)
    given = torch.arange(77)[None] if kind == "text" else normal(1, 3, 224, 224, seed=1)
    torch.testing.assert_close(module(given)[0], source(given)[0], atol=0, rtol=0)
    with pytest.raises(CheckpointMismatchError, match="1 missing"):
        load_published(module, component, dict(list(state.items())[1:]))
    with pytest.raises(ValueError, match="no setting width"):
        build(component, "lite", width=3)


@pytest.mark.parametrize(("component", "variant", "config"), TINY)
def test_a_renamed_tensor_is_refused_by_name(component, variant, config):
    module = build(component, variant, **config)
    prefix = PREFIX.get(component, "")
    state = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    load_published(module, component, state)
    name = sorted(state)[0]
    state[f"{name}_old"] = state.pop(name)
    with pytest.raises(CheckpointMismatchError, match=rf"1 missing: {name}; 1 unexpected: {name}_old"):
        load_published(module, component, state)


def test_loading_fills_the_values():
    source, target = network("image_encoder", "svrm", **ENCODER), build("image_encoder", "svrm", **ENCODER)
    load_published(target, "image_encoder", {f"img_encoder.{k}": v for k, v in source.state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"no component 'unet'.*view_unet"):
        build("unet", "lite")
    with pytest.raises(ValueError, match=r"no variant 'xl'.*lite, std"):
        build("view_unet", "xl")
    with pytest.raises(ValueError, match=r"no setting dept; choose from .*depth"):
        build("triplane_transformer", "svrm", dept=3)
    with pytest.raises(ValueError, match="no setting chanels"):
        build("view_unet", "std", chanels=3)
    with pytest.raises(ValueError, match="no setting decoder; choose from encoder, triplane, render"):
        build("svrm", "svrm", decoder={})
    with pytest.raises(ValueError, match="no setting heads"):
        build("svrm", "svrm", triplane={"heads": 3})
    with pytest.raises(ValueError, match="ffn_layer"):
        build("image_encoder", "svrm", ffn_layer="swiglu")
    with pytest.raises(ValueError, match="load it as that"):
        load_published(build("triplane_decoder", "svrm"), "image_encoder", {})
    with pytest.raises(ValueError, match="is no component"):
        load_published(torch.nn.Linear(1, 1), "view_unet", {})


# Dtypes, batches and sizes


@pytest.mark.parametrize("variant", ["lite", "std"])
def test_view_unet_in_bf16(variant):
    unet = network("view_unet", variant, **UNET[variant])
    exact = both_passes(unet, *unet_inputs(variant))
    coarse = both_passes(unet.to(torch.bfloat16), *unet_inputs(variant, dtype=torch.bfloat16))
    assert coarse.dtype == torch.bfloat16
    assert (coarse.float() - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_reconstruction_in_bf16():
    svrm, pixels, views = svrm_tiny(), normal(7, 3, 56, 56, seed=1), cameras.camera_vectors()
    points = (torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(2)) - 0.5) * 1.2
    planes = svrm(pixels, views)
    exact = svrm.render(planes, points)
    svrm.to(torch.bfloat16)
    coarse_planes = svrm(pixels.bfloat16(), views.bfloat16())
    assert coarse_planes.dtype == torch.bfloat16
    assert (coarse_planes.float() - planes).abs().mean() < 0.03 * planes.abs().mean()
    coarse = svrm.render(coarse_planes, points.bfloat16())
    assert coarse.sdf.dtype == torch.float32
    assert (coarse.sdf - exact.sdf).abs().mean() < 0.1 * exact.sdf.abs().mean()
    assert torch.isfinite(grid.sdf_grid(svrm.render, coarse_planes, 16)).all()


def test_image_encoder_takes_other_batches_and_shapes():
    module = network("image_encoder", "svrm", **ENCODER)
    images, camera = normal(4, 3, 84, 42, seed=5), normal(4, 20, seed=6)
    tokens = module(images, camera)
    assert tokens.shape == (4, 1 + 6 * 3, 32)
    torch.testing.assert_close(module(images[1:2], camera[1:2]), tokens[1:2], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(module(images, camera + 1), tokens, atol=0.1)
    with pytest.raises(ValueError, match="85×42 px: both sides must be multiples of 14"):
        module(normal(1, 3, 85, 42, seed=5), camera[:1])


def test_image_tokens_may_come_in_any_order_and_number():
    module = network("triplane_transformer", "svrm", **TRIPLANE)
    tokens = normal(3, 17, 32, seed=7)
    planes = module(tokens)
    assert planes.shape == (3, 3, 12, 32, 32)
    torch.testing.assert_close(module(tokens.flip(1)), planes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(module(tokens[2:]), planes[2:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("variant", "height", "width"), [("lite", 17, 23), ("std", 15, 9)])
def test_view_unet_takes_odd_sizes_and_single_batches(variant, height, width):
    unet = network("view_unet", variant, **UNET[variant])
    sample, reference, prompt, added = unet_inputs(variant, 2, height, width)
    both = both_passes(unet, sample, reference, prompt, added)
    one = {name: tensor[1:] for name, tensor in added.items()} if added else None
    alone = both_passes(unet, sample[1:], reference[1:], prompt[1:], one)
    assert both.shape == sample.shape
    torch.testing.assert_close(alone, both[1:], atol=1e-4, rtol=1e-3)


def test_bank_holds_what_entered_each_self_attention_and_nothing_stays_behind():
    unet = network("view_unet", "lite", **UNET["lite"])
    sample, reference, prompt, _ = unet_inputs("lite")
    plain = unet(sample, 3.0, prompt).sample
    bank = unet.write(reference, 3.0, prompt)
    assert bank.keys() == {name for name in unet.attn_processors if name.endswith("attn1.processor")}
    assert bank["down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"].shape == (2, 256, 16)
    first = unet.read(sample, 3.0, prompt, bank)
    torch.testing.assert_close(unet.read(sample, 3.0, prompt, bank), first, atol=0, rtol=0)
    torch.testing.assert_close(unet(sample, 3.0, prompt).sample, plain, atol=0, rtol=0)
    bank.popitem()
    with pytest.raises(ValueError, match="1 missing"):
        unet.read(sample, 3.0, prompt, bank)
    with pytest.raises(ValueError, match="1 unknown"):
        unet.read(sample, 3.0, prompt, {**bank, "elsewhere": sample})


def test_a_failed_pass_leaves_the_unet_plain():
    unet = network("view_unet", "lite", **UNET["lite"])
    _, reference, prompt, _ = unet_inputs("lite")
    with pytest.raises(RuntimeError):
        unet.write(reference, 3.0, prompt[..., :3])
    assert {(layer.mode, layer.tokens) for layer in unet.attn_processors.values()} == {("plain", None)}


@pytest.mark.parametrize(("component", "variant", "config"), TINY)
def test_attention_can_be_replaced_everywhere(component, variant, config):
    calls = []

    def counted(query, key, value):
        calls.append(query.shape)
        return attention.attend(query, key, value)

    module = network(component, variant, **config)
    layers = attention.use_attention(module, counted)
    expected = {"image_encoder": 2, "triplane_transformer": 4, "triplane_decoder": 0}
    assert layers == expected.get(component, 2 * (11 if variant == "std" else 10))
    if component == "view_unet":
        both_passes(module, *unet_inputs(variant))
        assert len(calls) == 2 * layers
    elif component == "triplane_transformer":
        module(normal(1, 5, 32, seed=1))
        assert len(calls) == layers


def test_every_choice_builds_on_meta_in_eval_mode():
    with torch.device("meta"):
        for component, variants in VARIANTS.items():
            for variant in variants:
                module = build(component, variant)
                assert not module.training
                assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}
