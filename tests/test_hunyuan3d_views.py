"""Pictures, cameras and the multi-view diffusion loops of Hunyuan3D-1."""

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from adapters.hunyuan3d import cameras, prepare, views
from adapters.hunyuan3d.modules import LatentCodec, ViewDenoiser, exact
from adapters.hunyuan3d.networks import build
from loader.errors import InputError
from tests.hunyuan3d_cases import assert_case, network, normal, rgba, seven_views
from tests.parity.case import case
from tests.parity.rule import fill, rule_tensor

RAMP = [i / 76 for i in range(77)]
LITE, LITE_TENSORS = case("hunyuan3d", "mvd_lite_loop_small")
TINY_VAE = LITE["config"]["vae"]


def clip_vision(projection, act):
    config = CLIPVisionConfig(**LITE["config"]["vision"], projection_dim=projection, hidden_act=act)
    return fill(CLIPVisionModelWithProjection(config).eval())


def tiny_vae(**config):
    return fill(AutoencoderKL(**{**TINY_VAE, **config}).eval())


def encoder_of(vae):
    def encode(pixels):
        with torch.no_grad():
            return LatentCodec(vae)(pixels, "encode")

    return encode


def denoiser(unet, dtype=torch.float32):
    """The UNet as the engine calls it: floating tensors in its dtype, the timestep exact."""
    module = ViewDenoiser(unet)

    def call(sample, reference, timestep, conditions):
        added = {name: tensor.to(dtype) for name, tensor in (conditions.added or {}).items()}
        tensors = (sample.to(dtype), reference.to(dtype), exact(timestep), conditions.prompt.to(dtype))
        return module(*tensors, **added)

    return call


# Pictures and cameras


def test_picture_preparation():
    _, tensors = case("hunyuan3d", "image_prep")
    picture = rgba()
    before = picture.tobytes()
    recentred = prepare.recentre(picture)
    for name, image in {
        "recenter_512": recentred,
        "to_rgb": prepare.on_white(picture),
        "white_out": prepare.white_out(picture),
        "lite_effective": prepare.condition_picture(picture),
        "removebg_preprocess": prepare.frame(picture),
    }.items():
        assert_case(np.array(image), tensors, name, atol=0)
    assert picture.tobytes() == before
    for name, pixels in {
        "pv_mvd_lite_feature_extractor_vae": prepare.vae_pixels(recentred, 640, 0.8),
        "pv_mvd_std_feature_extractor_vae": prepare.vae_pixels(recentred, 512, 0.5),
        "pv_mvd_std_vision_processor": prepare.clip_pixels(recentred),
    }.items():
        assert_case(pixels, tensors, name, atol=1e-5)


def test_svrm_preprocessing():
    _, tensors = case("hunyuan3d", "svrm_preprocess")
    assert_case(prepare.svrm_pixels(seven_views())[None], tensors, "input_view", atol=1e-5)
    assert_case(cameras.camera_vectors()[None], tensors, "input_view_cam", atol=1e-6)


def test_svrm_preprocessing_wants_one_shape():
    wide = Image.new("RGB", (300, 200))
    assert prepare.svrm_pixels([wide, wide], edge=56).shape == (2, 3, 56, 84)
    with pytest.raises(InputError, match=r"differ in shape.*make all square"):
        prepare.svrm_pixels([wide, Image.new("RGB", (200, 200))], edge=56)


def test_cameras_and_rays():
    _, tensors = case("hunyuan3d", "cameras_rays")
    angles = [(0, 0), (0, 60), (0, 120), (0, 180), (0, 240), (0, 300), (15, 30), (-20, 275)]
    assert_case(np.stack([cameras.camera_to_world(*angle) for angle in angles]), tensors, "c2w", atol=1e-6)
    vectors = cameras.camera_vectors()
    assert_case(vectors[None], tensors, "input_view_cam", atol=1e-6)
    torch.testing.assert_close(vectors[:6], tensors["view_cams20"][:6].float(), atol=1e-6, rtol=0)
    origins, directions = cameras.rays(tensors["ray_c2w"].float(), tensors["ray_K"].float(), 8)
    near, far = cameras.box_limits(origins, directions, 1.2)
    for name, value in {"ray_origins": origins, "ray_dirs": directions, "near": near, "far": far}.items():
        assert_case(value, tensors, name, atol=1e-6)


def test_skewed_cameras_and_rays_that_miss():
    camera = torch.from_numpy(cameras.camera_to_world(10, 20)).float()[None]
    intrinsics = torch.tensor([[[1.2, 0.3, 0.4], [0.0, 0.9, 0.6], [0.0, 0.0, 1.0]]])
    _, directions = cameras.rays(camera, intrinsics, 4)
    seen = directions[0] @ camera[0, :3, :3] * torch.tensor([1.0, -1.0, -1.0])
    pixel = (seen / seen[:, 2:]) @ intrinsics[0].T
    torch.testing.assert_close(pixel[6, :2], torch.tensor([2.5 / 4, 1.5 / 4]))
    near, far = cameras.box_limits(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.1, 0.1]]), 1.2)
    assert (near.item(), far.item()) == (-1, -2)


def test_cut_out_follows_the_saliency():
    picture = Image.new("RGB", (64, 48), (200, 100, 50))
    pixels = prepare.u2net_input(picture)
    assert pixels.shape == (1, 3, 320, 320)
    np.testing.assert_allclose(
        pixels[0, :, 7, 7], [(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.25 - 0.406) / 0.225], rtol=1e-5
    )
    saliency = np.full((320, 320), -3.0, np.float32)
    saliency[:, 160:] = 5.0
    cut = np.array(prepare.cut_out(picture, saliency))
    assert cut.shape == (48, 64, 4)
    assert cut[20, 5].tolist() == [0, 0, 0, 0]
    assert cut[20, 60].tolist() == [200, 100, 50, 255]
    assert not np.array(prepare.cut_out(picture, np.ones((320, 320), np.float32)))[..., 3].any()


@pytest.mark.parametrize("prepared", [prepare.frame, prepare.recentre])
def test_an_empty_picture_is_refused(prepared):
    with pytest.raises(InputError, match="shows no object"):
        prepared(Image.new("RGBA", (40, 30), (9, 9, 9, 3)))


# Schedules and guidance


@pytest.mark.parametrize("steps", [25, 50, 75])
@pytest.mark.parametrize("variant", ["lite", "std"])
def test_schedules(variant, steps):
    _, tensors = case("hunyuan3d", "mvd_schedulers")
    sampler = views.make_schedule(variant, steps)
    for name, value in {
        "timesteps": sampler.timesteps,
        "sigmas": sampler.sigmas,
        "init_sigma": [sampler.first_sigma],
    }.items():
        assert_case(value, tensors, f"{variant}_{steps}_{name}", atol=1e-6, rtol=1e-5)


def test_guidance_zones():
    latents = torch.zeros(1, 4, 130, 90)
    factor = views.zoned_guidance(500.0, latents)
    zones = (factor / ((2 + 16 * 0.5**5) / 3))[0, 0]
    assert factor.shape == (1, 1, 130, 90)
    seen = [[zones[row, column].item() for column in (0, 39, 40, 89)] for row in (0, 40, 119, 120)]
    torch.testing.assert_close(
        torch.tensor(seen), torch.tensor([[3, 3, 2.5, 2.5], [2, 2, 1.5, 1.5], [2, 2, 2.5, 2.5], [1, 1, 1, 1.0]])
    )
    assert views.constant_guidance(3.5)(1.0, latents) == 3.5


def test_steps_must_be_possible():
    with pytest.raises(ValueError, match="0 steps: choose 1 to 1000"):
        views.make_schedule("lite", 0)
    assert len(views.make_schedule("std", 7).sigmas) == 8


def test_timesteps_survive_a_lower_precision():
    """In bf16, 979 would become 980: what is not floating is not cast."""
    carried = exact(979.3878)
    assert not carried.is_floating_point()
    assert carried.view(torch.float32).item() == np.float32(979.3878)


# The loops


def test_lite_loop():
    config = LITE["config"]
    unet, vae = network("view_unet", "lite", **config["unet"]), tiny_vae()
    text = CLIPTextModel(CLIPTextConfig(**config["text"])).eval()
    text.load_state_dict({name: rule_tensor(f"text_model.{name}", like) for name, like in text.state_dict().items()})
    condition = prepare.condition_picture(rgba())
    assert_case(np.array(views.handed_on("lite", condition)), LITE_TENSORS, "cond_image", atol=0)
    pixels = prepare.vae_pixels(condition, config["vae_feature_extractor_edge"], 0.8)
    with torch.no_grad():
        image = clip_vision(config["vision_proj"][0], "gelu")(prepare.clip_pixels(condition)).image_embeds
        states = text(torch.tensor([views.EMPTY_PROMPT_TOKENS])).last_hidden_state
    prompt = views.lite_prompt(states, image, RAMP)
    assert_case(prompt, LITE_TENSORS, "prompt_embeds", atol=2e-5)

    tolerance = {"atol": 2e-4, "rtol": 1e-3}
    generator, sampler = torch.Generator().manual_seed(7), views.make_schedule("lite", 3)
    reference, latents = views.start("lite", encoder_of(vae), pixels, sampler, generator, size=(192, 128))
    unet.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    inputs: list[torch.Tensor] = []
    course = views.Course(sampler, views.Conditions(reference, prompt), views.zoned_guidance)
    with torch.no_grad():
        steps = list(views.denoise(denoiser(unet), course, latents, generator))
    assert len(steps) == 3
    for index, latents in enumerate(steps):
        assert_case(latents, LITE_TENSORS, f"latents_{index}", **tolerance)
    assert_case(inputs[0], LITE_TENSORS, "first_ref_input", **tolerance)
    assert_case(inputs[1], LITE_TENSORS, "first_model_input", **tolerance)
    assert_case(views.unscale(latents) / 0.18215, LITE_TENSORS, "vae_in", atol=2e-3, rtol=1e-3)
    decoded = views.to_range(LatentCodec(vae)(views.unscale(latents) / 0.18215, "decode"))
    expected = (LITE_TENSORS["vae_out.sub"] * 0.8 + 0.5).clamp(0, 1)
    assert_case(decoded, {"decoded.sub": expected}, "decoded", **tolerance)
    assert_case(
        np.array(views.to_picture(decoded)).astype(np.int16), {"image": LITE_TENSORS["image"].short()}, "image", atol=1
    )


def test_guided_prediction_of_lite():
    config = LITE["config"]
    unet, sampler = network("view_unet", "lite", **config["unet"]), views.make_schedule("lite", 3)
    pixels = prepare.vae_pixels(prepare.condition_picture(rgba()), 128, 0.8)
    generator = torch.Generator().manual_seed(7)
    reference, latents = views.start("lite", encoder_of(tiny_vae()), pixels, sampler, generator, size=(192, 128))
    torch.testing.assert_close(latents, LITE_TENSORS["noise_02"] * sampler.first_sigma)
    course = views.Course(sampler, views.Conditions(reference, LITE_TENSORS["prompt_embeds"]), views.zoned_guidance)
    with torch.no_grad():
        unconditional, conditional = views.predict(denoiser(unet), course, 0, latents, generator)
    factor = views.zoned_guidance(sampler.timesteps[0], latents)
    guided = unconditional + factor * (conditional - unconditional)
    assert_case(guided, LITE_TENSORS, "guided_pred_0", atol=2e-4, rtol=1e-3)


def test_std_loop():
    """The two CLIP encoders' widths and the empty prompt's seeds are those the case was made with (12 + 20; 61, 62)."""
    _, tensors = case("hunyuan3d", "mvd_std_loop_latent2")
    unet = network("view_unet", "std", **case("hunyuan3d", "mvd_std_unet_ref1")[0]["config"])
    condition = prepare.condition_picture(rgba(5))
    assert views.handed_on("std", condition).size == (512, 512)
    clip = prepare.clip_pixels(condition)
    with torch.no_grad():
        images = clip_vision(12, "quick_gelu")(clip).image_embeds, clip_vision(20, "gelu")(clip).image_embeds
    prompt, added = views.std_conditions(normal(1, 77, 32, seed=61), normal(1, 1280, seed=62), images, RAMP)
    assert_case(prompt, tensors, "prompt_embeds", atol=2e-5)
    assert added["time_ids"].tolist() == [[1536, 1024, 0, 0, 1536, 1024]] * 2
    assert not added["text_embeds"][0].any()

    generator, sampler = torch.Generator().manual_seed(9), views.make_schedule("std", 4)
    pixels = prepare.vae_pixels(condition, 512, 0.5)
    encode = encoder_of(tiny_vae(scaling_factor=0.13025))
    reference, latents = views.start("std", encode, pixels, sampler, generator)
    assert latents.shape == (1, 4, 192, 128)
    course = views.Course(sampler, views.Conditions(reference, prompt, added), views.constant_guidance(3.5))
    with torch.no_grad():
        steps = list(views.denoise(denoiser(unet), course, latents, generator))
    assert len(steps) == 4
    for index, latents in enumerate(steps):
        assert_case(latents, tensors, f"latents_{index}", atol=5e-4, rtol=1e-3)
    assert_case(views.unscale(latents), tensors, "final_latent_unscaled", atol=5e-4, rtol=1e-3)


def test_loop_in_bf16_keeps_latents_in_fp32():
    unet = build("view_unet", "lite", **LITE["config"]["unet"])
    fill(unet).to(torch.bfloat16)
    sampler, generator = views.make_schedule("lite", 2), torch.Generator().manual_seed(1)
    conditions = views.Conditions(normal(2, 4, 8, 8, seed=2), normal(2, 77, 24, seed=3))
    course = views.Course(sampler, conditions, views.zoned_guidance)
    start = normal(1, 4, 8, 8, seed=4) * sampler.first_sigma
    with torch.no_grad():
        steps = list(views.denoise(denoiser(unet, torch.bfloat16), course, start, generator))
    assert [step.dtype for step in steps] == [torch.float32] * 2
    assert torch.isfinite(steps[-1]).all()


@pytest.mark.parametrize("variant", ["lite", "std"])
def test_views_are_split_by_azimuth(variant):
    tiles = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
    rows = [np.concatenate((tiles[2 * row], tiles[2 * row + 1]), axis=1) for row in range(3)]
    picture = Image.fromarray(np.concatenate(rows, axis=0))
    order = [int(np.array(view)[0, 0, 0]) for view in views.split_views(variant, picture)]
    assert order == {"lite": [0, 1, 2, 3, 4, 5], "std": [0, 2, 4, 5, 3, 1]}[variant]
    assert {view.size for view in views.split_views(variant, picture)} == {(5, 4)}
