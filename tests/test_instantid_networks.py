"""InstantID's networks: names, parity with upstream, face attention, precision."""

import logging
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from adapters.instantid.networks import COMPONENTS, attention_masks, build, confine, load_published
from adapters.instantid.networks.attention import FaceAttention, PlainAttention, face_layers
from adapters.instantid.networks.miniature import CONFIGS
from adapters.instantid.spec import SPEC
from loader.attention import Attend, ByLength, use_attention
from loader.errors import CheckpointMismatchError, InputError
from loader.host import OpTime
from loader.place import place
from loader.plan import plan
from loader.wishes import Wishes
from tests.machines import host_with
from tests.parity.case import case, manifest
from tests.parity.rule import fill, rule_tensor
from tests.parity.rule import manifest as names_and_shapes

PARAMETERS = {
    "face_projection": 81_978_624,
    "unet": 2_567_463_684 + 340_787_200,
    "identity_net": 1_251_014_160,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
    "vae": 83_653_863,
}
SMALL_TEXT = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SMALL_TEXT |= {"num_attention_heads": 2, "projection_dim": 8}


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def meta(component: str, **config: object) -> nn.Module:
    with torch.device("meta"):
        return build(component, "sdxl", **config)


def by_rule(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: rule_tensor(name, torch.empty(shape)) for name, shape in shapes.items()}


def on_meta(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def renamed(tensors: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {new if name == old else name: tensor for name, tensor in tensors.items()}


UNET_CASE, UNET_EXPECTED = case("instantid", "unet_tiny")


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    module = build("unet", "sdxl", num_tokens=UNET_CASE["num_tokens"], **UNET_CASE["unet_config"])
    base = {name: tensor for name, tensor in module.state_dict().items() if "processor" not in name}
    load_published(module, "unet", {name: rule_tensor(name, tensor) for name, tensor in base.items()})
    load_published(module, "ip_adapter", by_rule(manifest("instantid", "ip_adapter_bin_tiny")["ip_adapter"]))
    return module


def predict(module: nn.Module, dtype: torch.dtype = torch.float32, **face: object) -> torch.Tensor:
    context = torch.cat((randn(21, 2, 77, 64), randn(22, 2, 16, 64)), dim=1)
    added = {
        "text_embeds": randn(23, 2, 32).to(dtype),
        "time_ids": torch.tensor(UNET_CASE["inputs"]["time_ids"], dtype=dtype),
    }
    with torch.inference_mode():
        return module(
            randn(20, 2, 4, 16, 12).to(dtype),
            UNET_CASE["inputs"]["timestep"],
            encoder_hidden_states=context.to(dtype),
            added_cond_kwargs=added,
            cross_attention_kwargs=face,
        ).sample


# Names and sizes


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_full_size_network_has_the_published_number_of_parameters(component):
    module = meta(component)
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[component]
    assert not module.training


def test_names_and_shapes_are_the_published_ones():
    published = manifest("instantid", "ip_adapter_bin_sdxl")
    assert names_and_shapes(meta("face_projection")) == published["image_proj"]
    assert names_and_shapes(face_layers(meta("unet"))) == published["ip_adapter"]
    assert names_and_shapes(meta("identity_net")) == manifest("instantid", "controlnet_identitynet")


def test_face_branches_are_numbered_as_published():
    unet = meta("unet")
    own = {id(layer): number for number, layer in face_layers(unet).items()}
    numbers = {own[id(layer)]: name for name, layer in unet.named_modules() if isinstance(layer, FaceAttention)}
    expected = manifest("instantid", "ip_layer_index_sdxl")
    assert numbers == {number: name for number, (name, _) in expected.items()}
    assert all(layer.to_k_ip.out_features == expected[own[id(layer)]][1] for layer in face_layers(unet).values())
    attentions = [processor for name, processor in unet.attn_processors.items() if "attn1" in name]
    assert len(attentions) == 70
    assert all(isinstance(processor, PlainAttention) for processor in attentions)


def test_a_whole_published_adapter_loads_on_meta_or_is_refused_by_name():
    published = {part: on_meta(shapes) for part, shapes in manifest("instantid", "ip_adapter_bin_sdxl").items()}
    projection, unet = meta("face_projection"), meta("unet")
    load_published(projection, "face_projection", published["image_proj"])
    load_published(unet, "ip_adapter", published["ip_adapter"])

    with pytest.raises(CheckpointMismatchError) as refusal:
        load_published(unet, "ip_adapter", renamed(published["ip_adapter"], "77.to_k_ip.weight", "77.to_k.weight"))
    assert refusal.value.missing == ("77.to_k_ip.weight",)
    assert refusal.value.unexpected == ("77.to_k.weight",)
    with pytest.raises(CheckpointMismatchError) as refusal:
        load_published(projection, "face_projection", renamed(published["image_proj"], "latents", "queries"))
    assert (refusal.value.missing, refusal.value.unexpected) == (("latents",), ("queries",))
    tiny = manifest("instantid", "ip_adapter_bin_tiny")["ip_adapter"]
    with pytest.raises(CheckpointMismatchError, match=r"missing: 101\.to_k_ip\.weight"):
        load_published(unet, "ip_adapter", on_meta(tiny))


def test_identity_net_loads_on_meta_or_is_refused_by_name():
    published = on_meta(manifest("instantid", "controlnet_identitynet"))
    module = meta("identity_net")
    load_published(module, "identity_net", published)
    with pytest.raises(CheckpointMismatchError, match=r"1 missing: conv_in\.bias; 1 unexpected: conv_out\.bias"):
        load_published(module, "identity_net", renamed(published, "conv_in.bias", "conv_out.bias"))


def test_a_unet_is_filled_in_two_parts_that_keep_apart():
    config = UNET_CASE["unet_config"]
    source = build("unet", "sdxl", **config)
    base = {name: tensor for name, tensor in source.state_dict().items() if "processor" not in name}
    faces = dict(face_layers(source).state_dict())
    module = meta("unet", **config)
    load_published(module, "ip_adapter", faces)
    load_published(module, "unet", base)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in module.state_dict().items())
    with pytest.raises(CheckpointMismatchError, match=r"missing: conv_in\.bias"):
        load_published(module, "unet", renamed(base, "conv_in.bias", "conv_in.shift"))
    with pytest.raises(CheckpointMismatchError, match=r"unexpected: 1\.to_k_ip\.weight"):
        load_published(module, "unet", {**base, **faces})


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_text_encoders_take_published_names_and_run_after_meta(component):
    source = build(component, "sdxl", **SMALL_TEXT)
    prefix = "" if component == "text_encoder_2" else "text_model."
    own = {f"{prefix}{name.removeprefix(prefix)}": tensor for name, tensor in source.state_dict().items()}
    module = meta(component, **SMALL_TEXT)
    load_published(module, component, {**own, "text_model.embeddings.position_ids": torch.arange(77)[None]})
    tokens = torch.tensor([[1, 2, 63]])
    expected, got = (net(tokens, output_hidden_states=True).hidden_states[-2] for net in (source, module))
    torch.testing.assert_close(got, expected)
    name = "text_model.embeddings.token_embedding.weight"
    with pytest.raises(CheckpointMismatchError, match=re.escape(f"1 missing: {name}")):
        load_published(module, component, renamed(own, name, "token_embedding.weight"))


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="component 'face'; it has: face_projection, unet, identity_net"):
        build("face", "sdxl")
    with pytest.raises(ValueError, match="variant 'sd15'; it has: sdxl"):
        build("unet", "sd15")
    with pytest.raises(ValueError, match="face_projection setting 'width'; it has: depth, dim, dim_head"):
        build("face_projection", "sdxl", width=3)
    for component in COMPONENTS:
        with pytest.raises(ValueError, match=f"{component} setting 'sampel_size'; it has: "):
            build(component, "sdxl", sampel_size=3)
    with pytest.raises(ValueError, match=r"component 'image_proj'; it has: .*ip_adapter"):
        load_published(nn.Identity(), "image_proj", {})
    with pytest.raises(ValueError, match="has the face branches"):
        load_published(nn.Identity(), "ip_adapter", {})


# The face projection


@pytest.fixture(scope="module")
def full_projection() -> nn.Module:
    module = meta("face_projection")
    load_published(module, "face_projection", by_rule(manifest("instantid", "ip_adapter_bin_sdxl")["image_proj"]))
    return module


def test_the_full_projection_equals_upstream(full_projection):
    _, expected = case("instantid", "resampler_full")
    embeddings = torch.cat((torch.zeros(1, 1, 512), randn(1, 1, 1, 512)))
    with torch.inference_mode():
        tokens = full_projection(embeddings)
    torch.testing.assert_close(tokens, expected["cfg_pair"], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "seed", "length"), [("seq3", 4, 3), ("seq1", 5, 1)])
def test_small_projections_equal_upstream(name, seed, length):
    description, expected = case("instantid", "resampler_small")
    module = fill(build("face_projection", "sdxl", **description["config"]))
    with torch.inference_mode():
        tokens = module(randn(seed, 2, length, 32))
    torch.testing.assert_close(tokens, expected[name], atol=2e-5, rtol=1e-4)


def test_the_projection_in_bf16_is_near_fp32():
    config = case("instantid", "resampler_small")[0]["config"]
    module = fill(build("face_projection", "sdxl", **config))
    exact = module(randn(4, 2, 3, 32))
    tokens = module.bfloat16()(randn(4, 2, 3, 32))
    assert tokens.dtype == torch.bfloat16
    assert (tokens.float() - exact).abs().max() < 0.06


# Face attention


@pytest.mark.parametrize("scale", [0.0, 0.8, 1.0])
def test_the_unet_equals_upstream_at_every_strength(unet, scale):
    torch.testing.assert_close(predict(unet, face_scale=scale), UNET_EXPECTED[f"scale_{scale}"], atol=1e-4, rtol=1e-3)


def test_a_region_equals_upstream(unet):
    region = torch.zeros(128, 96)
    region[32:96, 24:60] = 1
    masked = predict(unet, face_scale=0.8, face_masks=attention_masks(region))
    torch.testing.assert_close(masked, UNET_EXPECTED["scale_0.8_region"], atol=1e-4, rtol=1e-3)


def test_nothing_of_a_call_stays_in_the_unet(unet):
    before = predict(unet)
    predict(unet, face_scale=1.5, face_masks=attention_masks(torch.zeros(128, 96)))
    assert torch.equal(predict(unet), before)
    assert torch.equal(predict(unet, face_scale=0.5), before)
    assert torch.equal(predict(unet, face_masks=attention_masks(torch.ones(128, 96))), before)
    torch.testing.assert_close(
        predict(unet, face_masks=attention_masks(torch.zeros(128, 96))), predict(unet, face_scale=0.0)
    )


def test_a_region_of_another_size_is_refused(unet):
    with pytest.raises(InputError, match="layers of 64, 16, 4 positions, this one has 48"):
        predict(unet, face_masks=attention_masks(torch.ones(64, 64)))


def test_settings_are_taken_without_a_warning(unet, caplog):
    # diffusers logs, and drops, settings that a processor's signature lacks.
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        predict(unet, face_scale=0.8, face_masks=attention_masks(torch.ones(128, 96)))
        assert not caplog.records
        predict(unet, face_strength=0.8)
        assert "face_strength" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("processor", [PlainAttention(), FaceAttention(8, 8)])
def test_an_attention_mask_is_refused_not_ignored(unet, processor):
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    with pytest.raises(ValueError, match="no attention mask"):
        processor(layer, randn(0, 1, 4, 64), randn(1, 1, 20, 64), attention_mask=torch.ones(1, 20))


def test_odd_sizes_and_other_numbers_of_tokens():
    config = {**UNET_CASE["unet_config"], "cross_attention_dim": 32}
    module = build("unet", "sdxl", num_tokens=4, **config)
    masks = attention_masks(torch.ones(72, 104))
    assert {positions: tuple(mask.shape) for positions, mask in masks.items()} == {
        117: (1, 117, 1),
        35: (1, 35, 1),
        12: (1, 12, 1),
    }
    added = {"text_embeds": randn(3, 3, 32), "time_ids": torch.zeros(3, 6)}
    context, latents = randn(1, 3, 9, 32), randn(2, 3, 4, 9, 13)

    def run(context: torch.Tensor, **face: object) -> torch.Tensor:
        with torch.inference_mode():
            return module(latents, 5, context, added_cond_kwargs=added, cross_attention_kwargs=face).sample

    whole = run(context)
    assert whole.shape == latents.shape
    assert torch.equal(run(context, face_masks=masks), whole)
    other_face = torch.cat((context[:, :5], randn(4, 3, 4, 32)), dim=1)
    assert torch.equal(run(context, face_scale=0.0), run(other_face, face_scale=0.0))
    assert not torch.allclose(run(other_face), whole, atol=1e-4)


def test_the_unet_in_bf16_is_near_fp32():
    torch.manual_seed(3)
    module = build("unet", "sdxl", **UNET_CASE["unet_config"])
    region = attention_masks(torch.ones(128, 96))
    exact = predict(module, face_scale=0.8, face_masks=region)
    low = predict(module.bfloat16(), torch.bfloat16, face_scale=0.8, face_masks=region)
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().max() < 0.04


def spelled_out(calls: list[int]) -> Attend:
    """Attention in fp64, telling the number of keys of each call."""

    def product(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None):
        assert bias is None
        calls.append(key.shape[-2])
        scores = query.double() @ key.double().transpose(-2, -1) * query.shape[-1] ** -0.5
        return (scores.softmax(-1) @ value.double()).to(query)

    return product


def test_another_attention_product_is_what_runs_everywhere(unet):
    calls: list[int] = []
    module = build("unet", "sdxl", num_tokens=UNET_CASE["num_tokens"], **UNET_CASE["unet_config"])
    module.load_state_dict(unet.state_dict())
    layers = use_attention(module, spelled_out(calls))
    assert layers == len(module.attn_processors)
    torch.testing.assert_close(predict(module, face_scale=0.8), UNET_EXPECTED["scale_0.8"], atol=1e-4, rtol=1e-3)
    # A layer that looks at the face asks twice: once for the 77 text tokens, once for the 16 of the face.
    with_face = len(face_layers(module))
    assert calls.count(77) == calls.count(16) == with_face
    assert len(calls) == layers + with_face


def test_identity_net_and_the_projection_take_another_product_too():
    net = build("identity_net", "sdxl", **case("instantid", "pipeline")[0]["controlnet_config"])
    assert use_attention(net, spelled_out([])) == len(net.attn_processors)
    config = case("instantid", "resampler_small")[0]["config"]
    projection, calls = build("face_projection", "sdxl", **config), []
    layers = use_attention(projection, spelled_out(calls))
    projection(randn(4, 2, 3, 32))
    assert len(calls) == layers == config["depth"]


def test_the_planned_product_is_in_the_placed_denoiser():
    figures = tuple(
        OpTime("attention", "fp32", seconds, kernel=kernel, length=1024)
        for kernel, seconds in (("sdpa", 2.0), ("blocks", 1.0))
    )
    host = host_with()
    made = plan(
        SPEC, replace(host, cpu=replace(host.cpu, micro=figures)), Wishes(dtype="fp32", compile="none", force=True)
    )
    for component in ("unet", "identity_net"):
        placement = made.component(component)
        assert placement.attention == "blocks:1024-1536"
        network = place(build(component, "sdxl", **CONFIGS[component][1]), placement)
        processors = network.attn_processors.values()
        assert {processor.attend for processor in processors} == {ByLength(1024, 1536)}


def test_channels_last_gives_the_same(unet):
    module = build("unet", "sdxl", **UNET_CASE["unet_config"])
    module.load_state_dict(unet.state_dict())
    module.to(memory_format=torch.channels_last)
    torch.testing.assert_close(predict(module, face_scale=0.8), UNET_EXPECTED["scale_0.8"], atol=1e-4, rtol=1e-3)


# IdentityNet


def test_identity_net_runs_on_face_tokens_in_fp32_and_bf16():
    torch.manual_seed(4)
    config = case("instantid", "pipeline")[0]["controlnet_config"]
    module = build("identity_net", "sdxl", **config)
    with torch.no_grad():  # fresh ControlNets end in zeros
        for layer in (*module.controlnet_down_blocks, module.controlnet_mid_block):
            nn.init.normal_(layer.weight, std=0.1)

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        added = {"text_embeds": randn(1, 2, 32).to(dtype), "time_ids": torch.zeros(2, 6, dtype=dtype)}
        tokens, picture, latents = (randn(2, 2, 16, 64), randn(3, 2, 3, 72, 104), randn(4, 2, 4, 9, 13))
        with torch.inference_mode():
            down, middle = module(
                latents.to(dtype),
                5,
                encoder_hidden_states=tokens.to(dtype),
                controlnet_cond=picture.to(dtype),
                added_cond_kwargs=added,
                return_dict=False,
            )
        return [*down, middle]

    exact = run(torch.float32)
    module.bfloat16()
    low = run(torch.bfloat16)
    assert len(exact) == 10
    assert max((a.float() - b).abs().max() for a, b in zip(low, exact, strict=True)) < 0.06
    assert all(isinstance(processor, PlainAttention) for processor in module.attn_processors.values())


def test_residuals_stay_in_the_region():
    region = torch.zeros(64, 96)
    region[16:48, 24:72] = 1
    residual = randn(0, 2, 3, 8, 12)
    kept = confine(residual, region)
    assert torch.equal(kept[:, :, 2:6, 3:9], residual[:, :, 2:6, 3:9])
    assert kept[:, :, :2].abs().max() == kept[..., 9:].abs().max() == 0
    assert confine(residual.bfloat16(), region).dtype == torch.bfloat16
    # An edge in the middle of a latent's pixels fades, it does not jump.
    region[:] = 0
    region[:, 20:] = 1
    faded = confine(residual, region)
    torch.testing.assert_close(faded[..., 2], residual[..., 2] / 2)
    assert torch.equal(faded[..., 3:], residual[..., 3:])


@pytest.mark.parametrize("shape", [(60, 96), (1, 64, 96), (0, 64)])
def test_regions_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 8 pixels, got"):
        attention_masks(torch.ones(shape))
