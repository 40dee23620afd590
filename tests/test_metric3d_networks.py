"""Metric3D's networks: names, parity with upstream, precision, sizes, loading."""

import re
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from adapters.metric3d.geometry import Intrinsics, metric_depth, picture_normals, prepare, unpad, unproject
from adapters.metric3d.networks import VARIANTS, DepthModel, Prediction, attend, build, use_attention
from adapters.metric3d.networks.config import VitVariant, configure
from adapters.metric3d.networks.depth import depth_bins, limit_depth, unit_normals
from adapters.metric3d.networks.dpt import FuseBlock
from adapters.metric3d.networks.raft import ConvGru, Gates, UpdateBlock, convex_upsample
from adapters.metric3d.networks.vit import Block, position_embedding
from loader.errors import InputError
from tests.parity.case import case, manifest
from tests.parity.rule import fill
from tests.parity.rule import manifest as names_and_shapes
from tests.test_metric3d_geometry import picture, subsample

TINY_VIT = case("metric3d", "vit_tinyA_odd")[0]["config"]
TINY_GIANT = {
    "encoder": {"embed_dim": 32, "depth": 8, "num_heads": 2, "multi_output": True, "ffn_layer": "swiglu"},
    "decoder": {
        "feature_channels": [16, 24, 32, 32],
        "decoder_channels": [8, 16, 24, 32, 32],
        "hidden_channels": [16] * 4,
        "iters": 2,
    },
}
TINY_CONVNEXT = case("metric3d", "convnext_tinyA")[0]["config"]
SMALLER_CONVNEXT = {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32], "decoder_channel": [8, 8, 16, 16]}
# Name of the manifest, variant, settings, parameters of encoder and decoder.
NETWORKS = [
    ("metric3d_vit_small", "vit_small", {}, 22_058_112, 15_436_939),
    ("metric3d_vit_large", "vit_large", {}, 304_372_736, 107_569_179),
    ("metric3d_vit_giant2", "vit_giant2", {}, 1_136_486_912, 241_188_187),
    ("metric3d_convtiny", "convnext_tiny", {}, 27_818_592, 3_113_042),
    ("metric3d_convlarge", "convnext_large", {}, 196_227_264, 7_015_826),
    ("tiny_vit_tinyA_odd", "vit_small", TINY_VIT, None, None),
    ("tiny_vit_tinyB_multi_swiglu", "vit_giant2", TINY_GIANT, None, None),
    ("tiny_convnext_tinyA", "convnext_tiny", TINY_CONVNEXT, None, None),
    ("tiny_convnext_tinyB_nonmultiple_b2", "convnext_large", SMALLER_CONVNEXT, None, None),
]
CASES = {
    "vit_tinyA_odd": "vit_small",
    "vit_tinyA_even_b2": "vit_small",
    "vit_small_full_154x210": "vit_small",
    "vit_small_full_168x224_b2": "vit_small",
    "convnext_tinyA": "convnext_tiny",
    "convtiny_full_128x160": "convnext_tiny",
}
# Upstream's own modules at eb5b6fa with rule-filled weights, run once on randn(side, 1, 3, side, other side): twelve
# values each of depth, confidence and normals, of a gated encoder handing on raw tokens and of an odd-sized ConvNeXt.
RECORDED = {
    "vit_giant2": (
        TINY_GIANT,
        (61, 139),
        "144.49049 14.11137 82.42246 123.58344 53.77592 53.9231 76.1278 96.08051 72.2232 83.993 93.2287 141.28572",
        "0.22507 0.31681 0.1394 0.28793 -0.81122 0.10584 0.51411 0.39486 0.62303 0.46307 0.39876 1.27331",
        "-0.29688 0.29758 0.21743 0.8951 0.71565 0.91848 0.46732 0.26756 0.66726 2.58128 4.86582 1.62522",
    ),
    "convnext_large": (
        SMALLER_CONVNEXT,
        (67, 99),
        "23.98037 24.30446 24.13922 24.14271 24.44816 24.03972 23.79068 24.16705 24.15926 24.60567 24.12016 23.96781",
        "-0.64072 0.04038 -0.38014 -0.20411 0.0171 -0.19398 -0.41903 -0.36066 -0.09026 0.22658 -0.06532 -0.02661",
    ),
}
DECODER = "depth_model.decoder."
# Recorded intermediate values: the module below the decoder whose output they are.
VIT_TAPS = {
    "read_3": "token2feature.read_3",
    "read_2": "token2feature.read_2",
    "read_1": "token2feature.read_1",
    "bin_logits": "depth_regressor",
    "normal_raw": "normal_predictor",
    "context_04_h": "context_feature_encoder.outputs04.0",
    "context_04_c": "context_feature_encoder.outputs04.1",
    "context_08_h": "context_feature_encoder.outputs08.0",
    "context_08_c": "context_feature_encoder.outputs08.1",
    "context_16_h": "context_feature_encoder.outputs16.0",
    "context_16_c": "context_feature_encoder.outputs16.1",
}
CONVNEXT_TAPS = {
    "decoder_mono": "decoder_mono",
    "unet_out": "conv_out_2",
    "bin_logits": "depth_regressor_2",
    "residual": "conv_up_2",
}


def on_meta(variant: str, **config: object) -> DepthModel:
    with torch.device("meta"):
        return build("depth_model", variant, **config)


@cache
def _filled(variant: str) -> DepthModel:
    return fill(build("depth_model", variant))


def filled(variant: str, config: dict) -> DepthModel:
    return fill(build("depth_model", variant, **config)) if config else _filled(variant)


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predict(module: DepthModel, images: torch.Tensor) -> Prediction:
    with torch.inference_mode():
        return module(images)


def difference(got: torch.Tensor, tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name in tensors:
        return (got - tensors[name]).abs()
    expected = tensors[f"{name}.sub"]
    return (subsample(got, len(expected)) - expected).abs()


@pytest.mark.parametrize(("file", "variant", "config", "encoder", "decoder"), NETWORKS, ids=[n[0] for n in NETWORKS])
def test_names_shapes_and_sizes_are_the_published_ones(file, variant, config, encoder, decoder):
    module = on_meta(variant, **config)
    assert names_and_shapes(module) == manifest("metric3d", file)
    assert not module.training
    if encoder is not None:
        halves = [module.depth_model.encoder, module.depth_model.decoder]
        assert [sum(p.numel() for p in half.parameters()) for half in halves] == [encoder, decoder]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_intermediate_values_equal_upstream(name):
    description, expected = case("metric3d", name)
    config = description["config"] if isinstance(description["config"], dict) else {}
    module = filled(CASES[name], config)
    shape, seed = re.search(r"randn\(\[([\d, ]+)\].*manual_seed\((\d+)\)", description["input"]).groups()
    taps: dict[str, torch.Tensor] = {}
    hooks = [
        module.get_submodule(DECODER + path).register_forward_hook(lambda _m, _i, out, tap=tap: taps.update({tap: out}))
        for tap, path in (VIT_TAPS if CASES[name].startswith("vit") else CONVNEXT_TAPS).items()
    ]
    prediction = predict(module, randn(int(seed), *map(int, shape.split(","))))
    for hook in hooks:
        hook.remove()
    for key, got in zip(("depth", "confidence", "normal"), prediction, strict=True):
        if got is None:
            assert key not in description["output_shapes"]
            continue
        assert list(got.shape) == description["output_shapes"][key]
        assert got.dtype == torch.float32
        off = difference(got, expected, f"out.{key}")
        assert off.max() <= description["tolerance"][key]["max_abs"]
        assert off.mean() <= description["tolerance"][key].get("mean_abs", 1.0)
    compared = [tap for tap in taps if f"stat.tap.{tap}" in expected]
    assert len(compared) >= 4
    for tap in compared:
        low, high = expected[f"stat.tap.{tap}"][3:]
        limit = 1e-4 * (1 + max(low.abs(), high.abs()))
        assert difference(taps[tap], expected, f"out.tap.{tap}").max() <= limit, tap


def test_a_picture_becomes_the_metres_normals_and_points_upstream_gives():
    description, expected = case("metric3d", "e2e_vit_small_168x224")
    tolerance, camera = description["tolerance"], Intrinsics(*description["K"])
    images, framing = prepare(picture(480, 640), (168, 224))
    prediction = predict(_filled("vit_small"), images)
    depth = metric_depth(prediction.depth, framing, camera.focal_px, beyond="zero")
    got = {
        "raw_depth": prediction.depth,
        "raw_confidence": prediction.confidence,
        "raw_normal": prediction.normals,
        "hub_depth": metric_depth(prediction.depth, framing, camera.fx),
        "dotest_depth": depth,
        "hub_normal": unpad(prediction.normals[:, :3], framing),
        "dotest_normal": picture_normals(prediction.normals, framing),
        "pcd": torch.from_numpy(unproject(depth[0, 0].numpy(), camera)),
    }
    for name, values in got.items():
        limit = tolerance["normals" if name.endswith("_normal") else name]
        assert difference(values, expected, f"out.{name}").max() <= limit, name


def test_position_embedding_is_resampled_as_published():
    _, expected = case("metric3d", "components")
    learned = randn(50, 1, 1370, 8)
    for height, width in ((154, 210), (28, 42), (518, 518), (518, 560), (616, 1064)):
        got = position_embedding(learned, (height // 14, width // 14))
        assert difference(got, expected, f"out.posembed_{height}x{width}").max() <= 1e-5


def test_depth_arithmetic_is_the_published_one():
    _, expected = case("metric3d", "components")
    description, _ = case("metric3d", "vit_small_full_154x210")
    cpu = torch.device("cpu")
    torch.testing.assert_close(depth_bins(0.1, 200, 256, cpu), expected["out.bins256"], rtol=1e-4, atol=0)
    torch.testing.assert_close(depth_bins(0.3, 150, 512, cpu), expected["out.bins512"], rtol=1e-4, atol=0)
    # To the bit: a plain clamp would give 0.1 where the published arithmetic gives 0.100006.
    assert torch.equal(limit_depth(expected["in.clamp"], (0.1, 200)), expected["out.clamp"])
    assert limit_depth(torch.zeros(1), (0.1, 200)).item() == description["degenerate_check"]["depth_min"]
    normals = unit_normals(randn(53, 1, 4, 6, 8))
    torch.testing.assert_close(normals, expected["out.norm_normalize"], atol=1e-5, rtol=0)
    upsampled = convex_upsample(randn(51, 1, 6, 7, 9), 2 * randn(52, 1, 144, 7, 9), 4)
    torch.testing.assert_close(upsampled, expected["out.upsample_flow"], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_fusion_and_recurrent_units_are_the_published_ones():
    _, expected = case("metric3d", "components")
    fuse = fill(FuseBlock(8, 6, scale_factor=1.75))
    torch.testing.assert_close(
        fuse(randn(54, 1, 8, 6, 10), randn(55, 1, 8, 6, 10)), expected["out.fuseblock"], atol=1e-5, rtol=0
    )
    gru = fill(ConvGru(8, 12))
    gates = Gates(*(randn(seed, 1, 8, 5, 7) for seed in (57, 58, 59)))
    inputs = randn(60, 1, 6, 5, 7), randn(61, 1, 6, 5, 7)
    got = gru(randn(56, 1, 8, 5, 7).tanh(), gates, *inputs)
    torch.testing.assert_close(got, expected["out.gru"], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_one_refinement_is_the_published_one():
    _, expected = case("metric3d", "components")
    config = configure("vit_small", {"decoder": {"hidden_channels": [8] * 4}})
    assert isinstance(config, VitVariant)
    block = fill(UpdateBlock(config.decoder))
    sizes = (38, 52), (22, 30), (11, 15)
    hidden = [randn(70 + i, 1, 8, *size).tanh() for i, size in enumerate(sizes)]
    gates = [Gates(*(randn(80 + 3 * i + k, 1, 8, *size) for k in range(3))) for i, size in enumerate(sizes)]
    hidden, change = block(hidden, gates, randn(90, 1, 6, 38, 52))
    got = {f"net{i}": level for i, level in enumerate(hidden)}
    got |= {"delta": change, "mask": block.upsampling_logits(hidden[0])}
    for name, values in got.items():
        assert difference(values, expected, f"out.update_{name}").max() <= 1e-5, name


@pytest.mark.parametrize("variant", RECORDED)
def test_gated_raw_and_odd_sized_networks_equal_upstream(variant):
    config, size, *recorded = RECORDED[variant]
    prediction = predict(filled(variant, config), randn(size[0], 1, 3, *size))
    given = [part for part in prediction if part is not None]
    for got, values, limit in zip(given, recorded, (2e-3, 1e-4, 1e-4)[: len(given)], strict=True):
        expected = torch.tensor([float(value) for value in values.split()])
        torch.testing.assert_close(subsample(got, 12), expected, atol=limit, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_the_inputs_size_and_names_no_device(variant):
    # Anything created on a named device would not mix with meta tensors.
    size = (616, 1064) if variant.startswith("vit") else (544, 1216)
    module = on_meta(variant)
    prediction = predict(module, torch.empty(2, 3, *size, device="meta"))
    assert prediction.depth.shape == prediction.confidence.shape == (2, 1, *size)
    if variant.startswith("vit"):
        assert prediction.normals.shape == (2, 4, *size)
    else:
        assert prediction.normals is None


@pytest.mark.parametrize(("config", "variant"), [(TINY_VIT, "vit_small"), (TINY_GIANT, "vit_giant2")])
def test_a_vit_takes_any_size_and_each_picture_of_a_batch_alone(config, variant):
    module = filled(variant, config)
    for height, width in ((28, 28), (14, 14), (5, 9), (61, 139)):
        images = randn(height, 2, 3, height, width)
        together = predict(module, images)
        rows, columns = (4 * (7 * -(-side // 14) // 2) for side in (height, width))
        assert together.depth.shape == (2, 1, rows, columns)
        alone = predict(module, images[1:])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[1:], b, atol=2e-3, rtol=1e-4)


def test_what_the_last_blocks_of_each_quarter_give_reaches_the_decoder():
    module = filled("vit_giant2", TINY_GIANT)
    encoder = module.depth_model.encoder
    outputs: list[torch.Tensor] = []
    for block in encoder.blocks[0]:
        block.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.inference_mode():
        levels, grid = encoder(randn(1, 1, 3, 30, 56))
    assert grid == (3, 4)
    assert all(torch.equal(level, outputs[index]) for level, index in zip(levels, (1, 3, 5, 7), strict=True))


def test_a_convnext_takes_sides_up_to_three_beyond_multiples_of_32():
    module = filled("convnext_large", SMALLER_CONVNEXT)
    for height, width in ((32, 32), (67, 99), (96, 35)):
        prediction = predict(module, randn(height, 2, 3, height, width))
        assert prediction.depth.shape == (2, 1, height // 32 * 32, width // 32 * 32)
    for height, width in ((31, 64), (64, 68), (68, 64), (48, 64)):
        with pytest.raises(InputError, match=rf"multiples of 32, got {height}×{width}; the nearest is"):
            module(randn(0, 1, 3, height, width))


def test_what_is_no_batch_of_pictures_is_refused():
    module = on_meta("vit_small", **TINY_VIT)
    for shape in ((3, 28, 28), (1, 4, 28, 28), (1, 3, 0, 28)):
        with pytest.raises(InputError, match="batch, 3, height, width"):
            module(torch.empty(shape))


@pytest.mark.parametrize(("variant", "config"), [("vit_small", TINY_VIT), ("convnext_tiny", TINY_CONVNEXT)])
def test_memory_format_does_not_change_the_result(variant, config):
    module = filled(variant, config)
    images = randn(4, 2, 3, 64, 96)
    contiguous = predict(module, images)
    module.to(memory_format=torch.channels_last)
    for a, b in zip(contiguous, predict(module, images.contiguous(memory_format=torch.channels_last)), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("variant", ["vit_small", "convnext_tiny"])
def test_one_graph_for_the_compiler(variant):
    short = {"encoder": TINY_VIT["encoder"] | {"depth": 1}, "decoder": TINY_VIT["decoder"] | {"iters": 1}}
    module = filled(variant, short if variant == "vit_small" else TINY_CONVNEXT | {"depths": [1] * 4})
    images = randn(4, 1, 3, 32, 64)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(predict(compiled, images).depth, predict(module, images).depth)


def test_gradients_reach_every_weight_a_prediction_reads():
    module = filled("vit_small", TINY_VIT)
    depth, confidence, normals = module(randn(5, 1, 3, 28, 42))
    (depth.mean() + confidence.mean() + normals.mean()).backward()
    unread = {name for name, parameter in module.named_parameters() if parameter.grad is None}
    assert unread == {"depth_model.encoder.mask_token"}


def test_attention_can_be_exchanged():
    module = filled("vit_small", TINY_VIT)
    images = randn(6, 1, 3, 56, 70)
    calls = []

    def counted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        calls.append(query.shape)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        return scores.softmax(dim=-1) @ value

    before = predict(module, images)
    assert use_attention(module, counted) == 4
    torch.testing.assert_close(predict(module, images).depth, before.depth, atol=2e-3, rtol=1e-4)
    assert calls == [(1, 3, 1 + 4 + 4 * 5, 16)] * 4
    use_attention(module, attend)
    assert torch.equal(predict(module, images).depth, before.depth)


def test_the_repeated_block_is_where_the_spec_says():
    blocks = on_meta("vit_small").get_submodule("depth_model.encoder.blocks.0")
    assert len(blocks) == 12
    assert all(isinstance(block, Block) for block in blocks)


def test_fewer_refinements_are_a_setting_of_the_same_weights():
    short = build("depth_model", "vit_small", encoder=TINY_VIT["encoder"], decoder={**TINY_VIT["decoder"], "iters": 1})
    module = filled("vit_small", TINY_VIT)
    short.load_state_dict(module.state_dict())
    images = randn(9, 1, 3, 70, 98)
    _, expected = case("metric3d", "vit_tinyA_odd")
    assert difference(predict(short, images).depth, expected, "out.depth_iter_0").max() <= 2e-3
    assert F.l1_loss(predict(module, images).depth, predict(short, images).depth) > 0.1
