"""Metric3D's networks in 16 bits: whole, and with the parts that may stay fp32."""

import copy

import pytest
import torch

from adapters.metric3d.networks.depth import expected_depth
from tests.test_metric3d_networks import DECODER, TINY_CONVNEXT, TINY_GIANT, TINY_VIT, filled, predict, randn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("variant", "config", "size"),
    [
        ("vit_small", TINY_VIT, (70, 98)),
        ("vit_giant2", TINY_GIANT, (84, 112)),
        ("convnext_tiny", TINY_CONVNEXT, (64, 96)),
    ],
    ids=["vit", "swiglu", "convnext"],
)
def test_a_network_cast_whole_stays_near_fp32(variant, config, size, dtype):
    module = filled(variant, config)
    images = randn(3, 2, 3, *size)
    exact = predict(module, images)
    narrow = copy.deepcopy(module).to(dtype)
    for given in (images, images.to(dtype)):
        prediction = predict(narrow, given)
        assert all(part is None or part.dtype == torch.float32 for part in prediction)
        assert all(part is None or part.isfinite().all() for part in prediction)
        relative = (prediction.depth - exact.depth).abs() / exact.depth.abs().clamp(min=1.0)
        assert relative.mean() < (0.06 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize(
    ("variant", "config", "paths"),
    [
        ("vit_small", TINY_VIT, ["depth_regressor", "normal_predictor", "update_block.flow_head", "update_block.mask"]),
        ("vit_small", TINY_VIT, ["update_block"]),
        ("vit_small", TINY_VIT, [""]),
        ("convnext_tiny", TINY_CONVNEXT, ["depth_regressor_2", "conv_up_2"]),
        ("convnext_tiny", TINY_CONVNEXT, [""]),
    ],
)
def test_declared_parts_may_stay_fp32_in_a_narrow_network(variant, config, paths):
    module = filled(variant, config).bfloat16()
    for path in paths:
        module.get_submodule((DECODER + path).removesuffix(".")).float()
    prediction = predict(module, randn(3, 1, 3, 64, 96))
    assert prediction.depth.isfinite().all()


@pytest.mark.parametrize(
    ("variant", "config", "heads"),
    [
        ("vit_small", TINY_VIT, ["depth_regressor", "normal_predictor", "update_block.flow_head", "update_block.mask"]),
        ("convnext_tiny", TINY_CONVNEXT, ["depth_regressor_2", "conv_up_2"]),
    ],
)
def test_what_carries_distances_is_fp32_in_a_narrow_network(variant, config, heads):
    module = filled(variant, config).bfloat16()
    answers: list[torch.dtype] = []
    for path in heads:
        head = module.get_submodule(DECODER + path)
        head.register_forward_hook(lambda _m, _i, out: answers.append(out.dtype))
    predict(module, randn(3, 1, 3, 64, 96))
    assert len(answers) >= len(heads)
    assert set(answers) == {torch.float32}


def test_the_residuals_input_is_as_wide_as_the_residual_is_held():
    # Columns beyond 256 and depths of tens of metres are not numbers of bf16.
    module = filled("convnext_tiny", TINY_CONVNEXT).bfloat16()
    head = module.get_submodule(DECODER + "conv_up_2")
    given: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0]))
    predict(module, randn(3, 1, 3, 64, 96))
    head.float()
    predict(module, randn(3, 1, 3, 64, 96))
    assert [image.dtype for image in given] == [torch.bfloat16, torch.float32]
    assert torch.equal(given[1][0, 1, 0], torch.arange(24.0))
    assert not torch.equal(given[1][:, :1], given[1][:, :1].bfloat16().float())


def test_depth_bins_are_fp32_whatever_their_logits_are():
    logits = randn(1, 1, 256, 2, 3)
    narrow = expected_depth(logits.bfloat16(), (0.1, 200.0))
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, expected_depth(logits.bfloat16().float(), (0.1, 200.0)), rtol=0, atol=0)
