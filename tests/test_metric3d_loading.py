"""Metric3D's networks: published files, and settings."""

from functools import cache

import pytest
import torch
from torch import nn

from adapters.metric3d.networks import build, load_published
from loader.errors import CheckpointMismatchError
from tests.parity.rule import rule_tensor
from tests.test_metric3d_networks import DECODER, TINY_CONVNEXT, TINY_VIT, filled, on_meta, predict, randn


@cache
def synthetic(variant: str) -> dict[str, torch.Tensor]:
    config = TINY_VIT if variant.startswith("vit") else TINY_CONVNEXT
    own = on_meta(variant, **config).state_dict()
    return {name: rule_tensor(name, torch.empty(like.shape, dtype=like.dtype).zero_()) for name, like in own.items()}


@pytest.mark.parametrize(("variant", "config"), [("vit_small", TINY_VIT), ("convnext_tiny", TINY_CONVNEXT)])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_published_files_fill_every_tensor(variant, config, device):
    with torch.device(device):
        module = build("depth_model", variant, **config)
    load_published(module, "depth_model", synthetic(variant))
    images = randn(7, 1, 3, 64, 96)
    assert torch.equal(predict(module, images).depth, predict(filled(variant, config), images).depth)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_mask_token_may_be_missing_and_nothing_stays_on_meta(device):
    tensors = {name: value for name, value in synthetic("vit_small").items() if "mask_token" not in name}
    with torch.device(device):
        module = build("depth_model", "vit_small", **TINY_VIT)
    load_published(module, "depth_model", tensors)
    assert not any(tensor.is_meta for tensor in module.state_dict().values())


def test_the_second_name_of_a_shared_norm_wins_whatever_the_files_order():
    tensors = dict(reversed(synthetic("vit_small").items()))
    block = "context_feature_encoder.outputs08.0.0."
    for device in ("meta", "cpu"):
        with torch.device(device):
            module = build("depth_model", "vit_small", **TINY_VIT)
        load_published(module, "depth_model", tensors)
        got = module.get_parameter(DECODER + block + "norm3.weight")
        assert torch.equal(got, tensors[DECODER + block + "downsample.1.weight"])


@pytest.mark.parametrize("variant", ["vit_small", "convnext_tiny"])
def test_a_renamed_or_reshaped_tensor_is_refused_by_name(variant):
    config = TINY_VIT if variant.startswith("vit") else TINY_CONVNEXT
    names = list(synthetic(variant))
    victim = names[len(names) // 2]
    module = build("depth_model", variant, **config)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for tensors, fields in (
        ({(f"{n}_" if n == victim else n): t for n, t in synthetic(variant).items()}, ("missing", "unexpected")),
        ({n: (t[None] if n == victim else t) for n, t in synthetic(variant).items()}, ("wrong_shape",)),
        ({**synthetic(variant), "depth_model.extra": torch.zeros(1)}, ("unexpected",)),
        ({}, ("missing",)),
    ):
        with pytest.raises(CheckpointMismatchError) as refused:
            load_published(module, "depth_model", tensors)
        assert all(getattr(refused.value, field) for field in fields)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="no component 'depth'; choose from depth_model"):
        build("depth", "vit_small")
    with pytest.raises(ValueError, match="no component 'depth'"):
        load_published(nn.Identity(), "depth", {})
    with pytest.raises(ValueError, match="no variant 'vit_base'; choose from vit_small, vit_large"):
        build("depth_model", "vit_base")
    with pytest.raises(ValueError, match="no setting iters; choose from encoder, decoder"):
        build("depth_model", "vit_small", iters=2)
    with pytest.raises(ValueError, match="encoder has no setting width; choose from embed_dim, depth"):
        build("depth_model", "vit_small", encoder={"width": 2})
    with pytest.raises(ValueError, match="no setting encoder; choose from depths, dims, decoder_channel"):
        build("depth_model", "convnext_tiny", encoder={})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"decoder": {"n_gru_layers": 2}}, "implemented for n_gru_layers=3, got 2"),
        ({"decoder": {"in_channels": [1] * 4}}, "in_channels must be"),
        ({"decoder": {"feature_channels": [96, 192]}}, "feature_channels takes 4 numbers, got 2"),
        ({"decoder": {"feature_channels": [96, 100, 384, 768]}}, r"decoder_channels\[2\] must be 100"),
        ({"decoder": {"hidden_channels": [48, 48, 40, 48]}}, r"hidden_channels\[2\] must be 48"),
        ({"decoder": {"num_register_tokens": 0}}, "num_register_tokens must be 4"),
        ({"encoder": {"embed_dim": 100}}, "no multiple of num_heads 6"),
        ({"encoder": {"ffn_layer": "relu"}}, "no ffn_layer 'relu'; choose from mlp, swiglu"),
        ({"encoder": {"depth": 6, "multi_output": True}}, "depth 6 is not 4n"),
        ({"encoder": {"img_size": 500}}, "no multiple of 14"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build("depth_model", "vit_small", **config)
