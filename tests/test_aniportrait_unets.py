"""AniPortrait's two UNets: parity with upstream, other sizes, refusals."""

import pytest
import torch

from adapters.aniportrait.networks import build, load_published
from tests.aniportrait_cases import call, check, denoising_inputs, filled, noise, reference_inputs, tiny
from tests.parity.case import case
from tests.parity.rule import fill
from tests.parity.rule import manifest as names_and_shapes

# ---- reference UNet


def test_the_reference_unet_equals_upstream():
    _, expected = case("aniportrait", "reference_unet_tinyA")
    module = filled("reference_unet")
    with torch.inference_mode():
        features, banks = module.record(*reference_inputs())
    check("reference_unet_tinyA", features, expected.pop("sample"))
    assert {f"bank.{name}" for name in banks} == expected.keys()
    for name, tensor in call(module, *reference_inputs()).items():
        check("reference_unet_tinyA", tensor, expected[f"bank.{name}"])


def test_the_reference_unet_keeps_nothing_and_takes_odd_sizes():
    module = filled("reference_unet")
    banks = call(module, noise(1, 4, 9, 13, seed=1), torch.tensor([0]), noise(1, 3, 16, seed=2))
    assert banks["down_blocks.1.attentions.0.transformer_blocks.0"].shape == (1, 5 * 7, 64)
    assert all(processor.tokens is None for processor in module.attn_processors.values())


# ---- denoising UNet


@pytest.mark.parametrize("name", ["plain", "pose", "ref_cfg_bank_fp32", "ref_cfg_bank_fp16", "ref_nocfg_bank_fp32"])
def test_the_denoising_unet_equals_upstream(name):
    expected, given = case("aniportrait", "unet3d_tinyA")[1], denoising_inputs()
    latents, context, poses, banks = given["latents"], given["context"], given["poses"], given["banks"]
    guided = "cfg" in name and "nocfg" not in name
    if name.endswith("fp16"):
        banks = {path: bank.half() for path, bank in banks.items()}
    if "nocfg" in name:
        latents, context, poses = latents[1:], context[1:], [pose[1:] for pose in poses]
        banks = {path: bank[1:] for path, bank in banks.items()}
    if name == "plain":
        poses = None
    module = filled("denoising_unet")
    output = call(module, latents, 601, context, poses, banks if "ref" in name else None, guided)
    check("unet3d_tinyA", output, expected[name])


def test_rounding_the_banks_is_seen_by_the_cases():
    """The difference the cases' tolerance must resolve for the test above to mean anything."""
    _, expected = case("aniportrait", "unet3d_tinyA")
    given = denoising_inputs()
    output = call(
        filled("denoising_unet"), given["latents"], 601, given["context"], given["poses"], given["banks"], True
    )
    near = (output - expected["ref_cfg_bank_fp32"]).abs().max()
    assert near < 2e-5
    assert (output - expected["ref_cfg_bank_fp16"]).abs().max() > 3 * near
    # The reference matters at all, and only to the conditional half.
    without = call(filled("denoising_unet"), given["latents"], 601, given["context"], given["poses"])
    torch.testing.assert_close(output[0], without[0], atol=1e-5, rtol=1e-5)
    assert (output[1] - without[1]).abs().max() > 1e-2


def test_true_position_codes_equal_upstream():
    _, expected = case("aniportrait", "unet3d_tinyA_true_pe")
    module = fill(tiny("denoising_unet"), skip=(".pe",))
    codes = {tensor.shape[-1]: tensor for name, tensor in module.state_dict().items() if name.endswith(".pe")}
    torch.testing.assert_close(codes[32], expected["pe_c32"], atol=1e-6, rtol=0)
    torch.testing.assert_close(codes[128], expected["pe_c128"], atol=1e-6, rtol=0)
    given = denoising_inputs()
    output = call(module, given["latents"], 601, given["context"])
    check("unet3d_tinyA_true_pe", output, expected["plain"])


def test_v1_takes_its_group_norms_over_the_whole_clip():
    description, expected = case("aniportrait", "unet3d_tinyA_v1cfg")
    module = fill(build("denoising_unet", "v1", **description["config"]))
    output = call(module, noise(2, 4, 3, 8, 8, seed=41), torch.tensor([10, 900]), noise(2, 1, 16, seed=42))
    check("unet3d_tinyA_v1cfg", output, expected["out"])


def test_v1_by_itself_is_the_configuration_of_its_case():
    with torch.device("meta"):
        module = build("denoising_unet", "v1")
        same = build(
            "denoising_unet",
            "v2",
            use_inflated_groupnorm=False,
            motion_module_mid_block=False,
            motion_module_kwargs={"temporal_position_encoding_max_len": 24},
        )
    assert module.config == same.config
    names = names_and_shapes(module)
    assert not any(name.startswith("mid_block.motion_modules") for name in names)
    assert {shape[1] for name, shape in names.items() if name.endswith(".pe")} == {24}


def test_a_frame_does_not_depend_on_the_size_of_the_batch():
    module, given = filled("denoising_unet"), denoising_inputs()
    other = noise(1, 4, 5, 16, 16, seed=77)
    alone = call(module, other, 300, given["context"][1:], [pose[:1] for pose in given["poses"]])
    together = call(
        module,
        torch.cat((given["latents"], other)),
        torch.tensor([601, 601, 300]),
        torch.cat((given["context"], given["context"][1:])),
        [pose[:1] for pose in given["poses"]],
    )
    torch.testing.assert_close(together[2:], alone, atol=1e-4, rtol=1e-4)


def test_banks_of_one_row_serve_the_whole_conditional_half():
    module, given = filled("denoising_unet"), denoising_inputs()
    latents = given["latents"][:, :, :2].repeat(2, 1, 1, 1, 1)
    arguments = latents, 601, given["context"].repeat_interleave(2, 0), None
    single = {path: bank[1:] for path, bank in given["banks"].items()}
    expected = call(module, *arguments, {path: bank.repeat(2, 1, 1) for path, bank in single.items()}, True)
    torch.testing.assert_close(call(module, *arguments, single, True), expected)
    doubled = {
        path: torch.cat((torch.full_like(bank, 9.0).repeat(2, 1, 1), bank.repeat(2, 1, 1)))
        for path, bank in single.items()
    }
    torch.testing.assert_close(call(module, *arguments, doubled, True), expected)


def test_each_sample_reads_its_own_portrait():
    module, given = filled("denoising_unet"), denoising_inputs()
    latents, context = noise(2, 4, 2, 16, 16, seed=61), given["context"][1:].repeat(2, 1, 1)
    banks = {path: torch.cat((bank[1:], bank[1:].flip(2))) for path, bank in given["banks"].items()}
    together = call(module, latents, 601, context, None, banks)
    guided = call(module, latents.repeat(2, 1, 1, 1, 1), 601, context.repeat(2, 1, 1), None, banks, True)
    for row in range(2):
        own = {path: bank[row : row + 1] for path, bank in banks.items()}
        alone = call(module, latents[row : row + 1], 601, context[:1], None, own)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(guided[2 + row : 3 + row], alone, atol=1e-4, rtol=1e-4)


def test_sides_that_eight_does_not_divide_and_single_frames():
    module = filled("denoising_unet")
    reference = filled("reference_unet")
    latents, context = noise(2, 4, 1, 12, 21, seed=5), noise(2, 1, 16, seed=6)
    banks = call(reference, latents[:, :, 0], 0, context)
    assert call(module, latents, 20.0, context, None, banks, True).shape == latents.shape


def test_of_single_frames_and_without_motion_it_is_diffusers_unet_in_any_shape():
    from diffusers import UNet2DConditionModel

    settings = {
        "in_channels": 5,
        "out_channels": 3,
        "center_input_sample": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "layers_per_block": 3,
        "block_out_channels": [32, 64, 96],
        "norm_num_groups": 16,
        "norm_eps": 1e-4,
        "cross_attention_dim": 24,
        "attention_head_dim": [2, 4, 8],
    }
    down, up = ["DownBlock", "CrossAttnDownBlock", "CrossAttnDownBlock"], ["CrossAttnUpBlock", "UpBlock", "UpBlock"]
    theirs = UNet2DConditionModel(
        **settings, down_block_types=[f"{name}2D" for name in down], up_block_types=[f"{name}2D" for name in up]
    )
    fill(theirs.eval())
    ours = build(
        "denoising_unet",
        "v2",
        **settings,
        down_block_types=[f"{name}3D" for name in down],
        up_block_types=[f"{name}3D" for name in up],
        use_motion_module=False,
        sample_size=32,
    )
    load_published(ours, "denoising_unet", theirs.state_dict())
    latents, context = noise(2, 5, 3, 13, 10, seed=1), noise(2, 4, 24, seed=2)
    output = call(ours, latents, torch.tensor([3, 800]), context)
    for frame in range(3):
        expected = call(theirs, latents[:, :, frame], torch.tensor([3, 800]), context).sample
        torch.testing.assert_close(output[:, :, frame], expected, atol=1e-4, rtol=1e-4)


def test_frames_see_each_other_only_through_the_motion_modules():
    still = fill(tiny("denoising_unet", use_motion_module=False))
    assert not any("motion" in name for name in names_and_shapes(still))
    latents, context = noise(1, 4, 3, 8, 8, seed=3), noise(1, 1, 16, seed=4)
    torch.testing.assert_close(call(still, latents, 5, context)[:, :, 1:2], call(still, latents[:, :, 1:2], 5, context))
    moving = filled("denoising_unet")
    alone = call(moving, latents[:, :, 1:2], 5, context)
    assert (call(moving, latents, 5, context)[:, :, 1:2] - alone).abs().max() > 1e-2


def test_the_shortcut_for_a_single_token_is_exact():
    module, given = filled("denoising_unet"), denoising_inputs()
    single = call(module, given["latents"], 601, given["context"])
    torch.testing.assert_close(
        call(module, given["latents"], 601, given["context"].repeat(1, 2, 1)), single, atol=1e-4, rtol=1e-4
    )
    several = call(module, given["latents"], 601, noise(2, 3, 16, seed=8))
    assert (several - single).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(2, 4, 16, 16)}, r"\[B, 4, F, h, w\], got \[2, 4, 16, 16\]"),
        ({"latents": torch.zeros(2, 4, 33, 8, 8)}, "at most 32 frames, got 33"),
        ({"latents": torch.zeros(3, 4, 5, 16, 16)}, "batch of 3"),
        ({"poses": [torch.zeros(1)] * 4}, "takes 5 pose feature maps, got 4"),
        ({"banks": {"nowhere": torch.zeros(1, 1, 1)}}, "unknown \\['nowhere'\\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    given = denoising_inputs() | change
    with pytest.raises(ValueError, match=message):
        call(filled("denoising_unet"), given["latents"], 1, given["context"], given["poses"], given["banks"], True)


def test_banks_with_other_rows_are_refused():
    given = denoising_inputs()
    banks = {path: bank.repeat(2, 1, 1)[:3] for path, bank in given["banks"].items()}
    with pytest.raises(ValueError, match=r"1 or 2 rows, or 1 for all, got \[3\]"):
        call(filled("denoising_unet"), given["latents"], 1, given["context"], None, banks, True)


def test_full_size_networks_run_on_meta_and_so_make_no_tensor_elsewhere():
    with torch.device("meta"):
        reference, unet = build("reference_unet", "sd15"), build("denoising_unet", "v2")
        guider = build("pose_guider", "320")
        latents, context = torch.zeros(2, 4, 4, 32, 24), torch.zeros(2, 1, 768)
        pose = torch.zeros(1, 3, 4, 256, 192)
    time = torch.tensor(7, device="meta")
    banks = call(reference, latents[:, :, 0], time, context)
    features = call(guider, pose)
    assert [tuple(level.shape) for level in features] == [
        (1, 320, 4, 32, 24), (1, 320, 4, 16, 12), (1, 640, 4, 8, 6), (1, 1280, 4, 4, 3), (1, 1280, 4, 4, 3),
    ]  # fmt: skip
    assert call(unet, latents, time, context, features, banks, True).shape == latents.shape
