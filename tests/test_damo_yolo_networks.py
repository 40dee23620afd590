"""DAMO-YOLO's networks: names, parity with upstream, merging, precision, training."""

import re

import pytest
import torch
from torch import nn

from adapters.damo_yolo.networks import VARIANTS, Detector, build, load_published, make_priors
from adapters.damo_yolo.networks.head import Integral, Scale
from loader.errors import CheckpointMismatchError
from tests.parity.case import HERE, case, manifest, sampled
from tests.parity.rule import fill
from tests.parity.rule import manifest as names_and_shapes

CASES = sorted(path.stem.removeprefix("golden_") for path in (HERE / "damo_yolo").glob("golden_*.json"))
PARAMETERS = {
    "T": 8_875_727,
    "S": 16_935_647,
    "M": 29_241_727,
    "L": 43_861_759,
    "N": 2_347_347,
    "Ns": 1_405_691,
    "Nm": 2_707_219,
    "Nl": 5_688_579,
}


def rule_filled(variant: str, **config: int) -> Detector:
    return fill(build("detector", variant, **config), skip=("integral.project",))


def meta(variant: str) -> Detector:
    with torch.device("meta"):
        return build("detector", variant)


def pictures(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 255


def predict(module: Detector, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return module(images)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_shapes_and_size_are_the_published_ones(variant):
    module = meta(variant)
    assert names_and_shapes(module) == manifest("damo_yolo", variant)
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[variant]
    assert not module.training


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_upstream_before_and_after_merging(name):
    description, expected = case("damo_yolo", name)
    shape, seed = re.search(r"rand\(([\d,]+), generator=manual_seed\((\d+)\)", description["input"]).groups()
    images = pictures(*map(int, shape.split(",")), seed=int(seed))
    module = rule_filled(description["variant"])

    def check(tensor: torch.Tensor, key: str) -> None:
        torch.testing.assert_close(sampled(tensor, len(expected[key])), expected[key], **description["tolerance"])

    for _ in range(2):
        with torch.inference_mode():
            backbone = module.backbone(images)
            neck = module.neck(*backbone)
        for level in range(3):
            check(backbone[level], f"backbone{level}")
            check(neck[level], f"neck{level}")
        scores, boxes = predict(module, images)
        assert list(scores.shape) == description["shapes"]["cls"]
        assert list(boxes.shape) == description["shapes"]["box"]
        check(scores, "cls")
        check(boxes, "box")
        module.merge()


@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_leaves_single_convolutions_and_the_same_outputs(variant):
    module = rule_filled(variant)
    images = pictures(1, 3, 64, 96)
    scores, boxes = predict(module, images)
    assert module.merge() is module
    assert module.merged
    merged_scores, merged_boxes = predict(module, images)
    torch.testing.assert_close(merged_scores, scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(merged_boxes, boxes, rtol=0, atol=4e-3)
    assert not any("1x1" in name for name in module.state_dict())
    once = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.merge()
    assert all(torch.equal(tensor, once[name]) for name, tensor in module.state_dict().items())


def test_merging_spares_the_tensors_it_was_loaded_from():
    published = {name: tensor.clone() for name, tensor in rule_filled("Ns").state_dict().items()}
    before = {name: tensor.clone() for name, tensor in published.items()}
    module = meta("Ns")
    load_published(module, "detector", published)
    module.merge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in published.items())


def test_merging_keeps_the_memory_format():
    convolutions = [
        layer
        for layer in rule_filled("T").to(memory_format=torch.channels_last).merge().modules()
        if isinstance(layer, nn.Conv2d)
    ]
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in convolutions)


def test_merging_a_training_module_is_refused():
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        build("detector", "Ns").train().merge()


def test_a_published_checkpoint_loads_whole_or_not_at_all():
    published = rule_filled("Ns").state_dict()
    module = build("detector", "Ns")
    load_published(module, "detector", published)
    assert all(torch.equal(tensor, published[name]) for name, tensor in module.state_dict().items())

    renamed = dict(published)
    renamed["head.gfl_cls.0.kernel"] = renamed.pop("head.gfl_cls.0.weight")
    with pytest.raises(CheckpointMismatchError) as refusal:
        load_published(module, "detector", renamed)
    assert refusal.value.missing == ("head.gfl_cls.0.weight",)
    assert refusal.value.unexpected == ("head.gfl_cls.0.kernel",)

    with pytest.raises(CheckpointMismatchError, match=r"head\.gfl_cls\.0\.bias: \[80\], \[5\]"):
        load_published(build("detector", "Ns", num_classes=5), "detector", published)
    with pytest.raises(ValueError, match="freshly built"):
        load_published(module.merge(), "detector", published)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'classifier'.*detector"):
        build("classifier", "T")
    with pytest.raises(ValueError, match=r"'X'.*T, S, M, L, N, Ns, Nm, Nl"):
        build("detector", "X")
    with pytest.raises(ValueError, match="depth; it has: num_classes"):
        build("detector", "T", depth=2)
    with pytest.raises(ValueError, match="num_classes=0"):
        build("detector", "T", num_classes=0)
    with pytest.raises(ValueError, match=r"'classifier'.*detector"):
        load_published(build("detector", "Ns"), "classifier", {})


@pytest.mark.parametrize("shape", [(1, 3, 64, 100), (1, 3, 33, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 32, got"):
        build("detector", "Ns")(torch.zeros(shape))


def test_each_call_follows_its_own_batch_size_and_aspect():
    module = rule_filled("Ns", num_classes=5)
    wide, tall = pictures(3, 3, 64, 160), pictures(1, 3, 160, 64)
    scores, boxes = predict(module, wide)
    tall_scores, tall_boxes = predict(module, tall)
    assert scores.shape == (3, 210, 5)
    assert boxes.shape == (3, 210, 4)
    assert tall_boxes.shape == (1, 210, 4)
    alone = rule_filled("Ns", num_classes=5)
    torch.testing.assert_close(tall_boxes, predict(alone, tall)[1])
    torch.testing.assert_close(tall_scores, predict(alone, tall)[0])
    torch.testing.assert_close(boxes[2:], predict(alone, wide[2:])[1], rtol=1e-4, atol=1e-3)


def test_priors_are_cell_corners_row_by_row():
    priors = make_priors([(1, 2), (2, 1)], strides=(8, 16), device=torch.device("cpu"))
    assert priors.points.tolist() == [[0, 0], [8, 0], [0, 0], [0, 16]]
    assert priors.strides.flatten().tolist() == [8, 8, 16, 16]


@pytest.mark.parametrize("variant", ["Ns", "T", "M"])
@pytest.mark.parametrize("merged", [False, True])
def test_bf16_runs_end_to_end_and_decodes_in_fp32(variant, merged):
    module = rule_filled(variant)
    images = pictures(1, 3, 96, 96)
    if merged:
        module.merge()
    scores, boxes = predict(module, images)
    low_scores, low_boxes = predict(module.bfloat16(), images)
    assert low_scores.dtype == low_boxes.dtype == torch.float32
    assert low_boxes.isfinite().all()
    # The weights are random, so rounding grows further than in a trained network; most of it must still cancel.
    assert (low_scores - scores).abs().mean() < 0.01
    assert (low_boxes - boxes).abs().mean() < 1.0


def test_the_scales_multiply_in_fp32():
    scale = Scale().bfloat16()
    logits = torch.full((1, 1, 1, 1), 3.015625).bfloat16()
    with torch.no_grad():
        scale.scale.fill_(1.0078125)
        assert scale(logits).item() == 3.015625 * 1.0078125


def test_the_integral_keeps_its_precision_under_low_precision_logits():
    integral = Integral(16)
    bins = torch.randn(1, 68, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = integral(bins.double().float())
    assert torch.equal(integral(bins), exact)
    assert torch.equal(integral.bfloat16()(bins), exact)


def test_weights_may_be_stored_lower_than_they_compute():
    module = build("detector", "Ns").merge().bfloat16()
    images = pictures(1, 3, 64, 64)
    expected = predict(build_copy_in_fp32(module), images)
    for layer in module.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_pre_hook(lambda layer, _: layer.float() and None)
            layer.register_forward_hook(lambda layer, *_: layer.bfloat16() and None)
    scores, boxes = predict(module, images)
    torch.testing.assert_close(scores, expected[0])
    torch.testing.assert_close(boxes, expected[1])


def build_copy_in_fp32(module: Detector) -> Detector:
    copy = build("detector", "Ns").merge()
    copy.load_state_dict(module.state_dict())
    return copy


def test_the_detector_trains():
    torch.manual_seed(2)
    module = build("detector", "T", num_classes=3).train()
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    levels = module.raw(pictures(2, 3, 64, 64))
    assert [tuple(level.classes.shape) for level in levels] == [(2, 3, 8, 8), (2, 3, 4, 4), (2, 3, 2, 2)]
    assert [tuple(level.bins.shape) for level in levels] == [(2, 68, 8, 8), (2, 68, 4, 4), (2, 68, 2, 2)]
    scores, boxes = module.head.decode(levels)
    # Before training every class sits at its prior probability.
    assert (scores.mean() - 0.01).abs() < 0.005
    (scores.sum() + boxes.square().mean()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())
    assert all(norm.num_batches_tracked == 1 for norm in norms)
