"""AniPortrait's networks: names, loading, refusals, precision, attention."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adapters.aniportrait.networks import COMPONENTS, build, load_published
from adapters.aniportrait.networks.attention import Attention
from kit.attention import use_attention
from loader.errors import CheckpointMismatchError
from tests.aniportrait_cases import TINY, arguments_of, call, copied, filled, noise, on_meta, tensors
from tests.parity.case import case, manifest
from tests.parity.rule import manifest as names_and_shapes
from tests.parity.rule import rule_tensor

PUBLISHED = [
    ("reference_unet", "sd15", "reference_unet_full", 859_508_800),
    ("denoising_unet", "v2", "denoising_unet3d_full", 1_312_730_244),
    ("pose_guider", "320", "pose_guider_full", 167_518_523),
    ("audio2mesh", "base", "audio2mesh_full", 95_485_692),
    ("audio2pose", "base", "audio2pose_full", 120_058_758),
]


@pytest.mark.parametrize(("component", "variant", "name", "parameters"), PUBLISHED)
def test_names_shapes_and_size_are_the_published_ones(component, variant, name, parameters):
    with torch.device("meta"):
        module = build(component, variant)
    assert names_and_shapes(module) == manifest("aniportrait", name)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("component", TINY)
def test_tiny_names_are_those_of_the_cases(component):
    assert names_and_shapes(on_meta(component)) == manifest("aniportrait", TINY[component][2])


def test_the_two_files_of_the_denoising_unet_make_one():
    spatial, motion = (manifest("aniportrait", name) for name in ("denoising_unet_spatial_full", "motion_module_full"))
    assert not spatial.keys() & motion.keys()
    with torch.device("meta"):
        module = build("denoising_unet", "v2")
        published = {name: torch.empty(shape) for name, shape in (spatial | motion).items()}
    load_published(module, "denoising_unet", published)
    with pytest.raises(CheckpointMismatchError) as refusal:
        load_published(module, "denoising_unet", {name: published[name] for name in spatial})
    assert refusal.value.missing == tuple(sorted(motion))


@pytest.mark.parametrize("component", TINY)
def test_a_published_checkpoint_loads_whole_or_not_at_all(component):
    published = dict(filled(component).state_dict())
    module = on_meta(component)
    load_published(module, component, published)
    assert all(torch.equal(tensor, published[name]) for name, tensor in module.state_dict().items())
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))

    wrong = next(name for name in reversed(published) if name.endswith("weight"))
    published["renamed"] = published.pop(wrong)
    with pytest.raises(CheckpointMismatchError) as refusal:
        load_published(module, component, published)
    assert refusal.value.missing == (wrong,)
    assert refusal.value.unexpected == ("renamed",)


@pytest.mark.parametrize("component", ["audio2mesh", "audio2pose"])
def test_checkpoints_saved_by_newer_torch_load_too(component):
    published = filled(component).state_dict()
    newer = {
        name.replace("conv.weight_g", "conv.parametrizations.weight.original0").replace(
            "conv.weight_v", "conv.parametrizations.weight.original1"
        ): tensor
        for name, tensor in published.items()
    }
    assert newer.keys() != published.keys()
    module = on_meta(component)
    load_published(module, component, newer)
    assert all(torch.equal(tensor, published[name]) for name, tensor in module.state_dict().items())


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(
        ValueError, match=r"'unet'.*reference_unet, denoising_unet, pose_guider, audio2mesh, audio2pose"
    ):
        build("unet", "v2")
    with pytest.raises(ValueError, match=r"'unet'.*reference_unet"):
        load_published(nn.Identity(), "unet", {})
    for component, variants in COMPONENTS.items():
        with pytest.raises(ValueError, match=f"'v9'; it has: {', '.join(variants)}"):
            build(component, "v9")
        with pytest.raises(ValueError, match=rf"{component} has no setting depth; it has: \w+"):
            build(component, variants[0], depth=3)


@pytest.mark.parametrize(
    ("component", "config", "message"),
    [
        ("denoising_unet", {"act_fn": "gelu"}, "act_fn='silu' only, got 'gelu'"),
        ("denoising_unet", {"motion_module_kwargs": {"heads": 8}}, "motion_module_kwargs has no setting heads"),
        ("denoising_unet", {"motion_module_kwargs": {"attention_block_types": ["Cross"]}}, "Temporal_Self' only"),
        ("denoising_unet", {"down_block_types": ["DownBlock3D"]}, "must be 4 of"),
        ("denoising_unet", {"attention_head_dim": [8, 8]}, "one number or 4"),
        ("audio2mesh", {"from_pretrained": True}, "from_pretrained=False only"),
        ("audio2mesh", {"out_dim": 1000}, "multiple of 3"),
        ("audio2pose", {"wav2vec2": {"hidden": 8}}, "wav2vec2 has no setting hidden; it has: hidden_size"),
    ],
)
def test_settings_without_meaning_are_refused(component, config, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(component, COMPONENTS[component][0], **config)


@pytest.mark.parametrize("component", TINY)
def test_cast_whole_to_bf16_it_runs_and_stays_near(component):
    module, arguments = copied(component), arguments_of(component)
    exact = tensors(call(module, *arguments))
    low = tensors(call(module.bfloat16(), *arguments))
    assert {tensor.dtype for tensor in low} == {torch.bfloat16}
    for near, tensor in zip(low, exact, strict=True):
        assert near.isfinite().all()
        # The pose guider is the one that wants fp32: its batch statistics amplify the rounding.
        assert (near.float() - tensor).norm() / tensor.norm() < (0.5 if component == "pose_guider" else 0.1)


def test_the_time_embedding_may_stay_fp32():
    module, arguments = copied("denoising_unet"), arguments_of("denoising_unet")
    module.bfloat16()
    module.time_embedding.float()
    assert call(module, *arguments).dtype == torch.bfloat16


@pytest.mark.parametrize("component", TINY)
def test_weights_may_be_stored_lower_than_they_compute(component):
    stored = copied(component).bfloat16()
    expected = tensors(call(deepcopy(stored).float(), *arguments_of(component)))
    for layer in stored.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_pre_hook(lambda layer, _: raise_own(layer, torch.float32))
            layer.register_forward_hook(lambda layer, *_: raise_own(layer, torch.bfloat16))
    for near, tensor in zip(tensors(call(stored, *arguments_of(component))), expected, strict=True):
        torch.testing.assert_close(near, tensor, atol=1e-4, rtol=1e-3)


def raise_own(layer: nn.Module, dtype: torch.dtype) -> None:
    for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


@pytest.mark.parametrize(
    ("component", "layers"), [("reference_unet", 32), ("denoising_unet", 32 + 2 * 21), ("audio2pose", 16)]
)
def test_another_attention_product_can_be_put_in_place(component, layers):
    module = copied(component)
    before = tensors(call(module, *arguments_of(component)))
    calls = []

    def spelled_out(query, key, value, bias=None):
        calls.append(query.shape)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return F.softmax(scores if bias is None else scores + bias, dim=-1) @ value

    assert use_attention(module, spelled_out) == layers
    for near, tensor in zip(tensors(call(module, *arguments_of(component))), before, strict=True):
        torch.testing.assert_close(near, tensor, atol=5e-4, rtol=1e-3)
    assert calls


def test_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3, 8), nn.MultiheadAttention(24, 3, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((ours.to_q.weight, ours.to_k.weight, ours.to_v.weight)))
        theirs.out_proj.weight.copy_(ours.to_out[0].weight)
        ours.to_out[0].bias.zero_()
    x, context = noise(2, 5, 24, seed=1), noise(2, 7, 24, seed=2)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context, need_weights=False)[0])


def test_library_classes_have_the_names_of_the_other_checkpoints():
    from diffusers import AutoencoderKL
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = case("aniportrait", "pose2vid_short_64_nocfg")[0]["config"]
    with torch.device("meta"):
        vae = AutoencoderKL(**config["vae"])
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["image_encoder"]))
    assert names_and_shapes(vae) == manifest("aniportrait", "vae_tiny")
    published = manifest("aniportrait", "clip_tiny")
    published.pop("vision_model.embeddings.position_ids", None)
    assert names_and_shapes(encoder) == published


def test_rule_values_reach_the_published_names():
    """The filled networks hold what the rule says for the published name, so that the cases above prove the names."""
    state = filled("audio2mesh").state_dict()
    name = "audio_encoder.encoder.pos_conv_embed.conv.weight_g"
    assert torch.equal(state[name], rule_tensor(name, state[name]))
