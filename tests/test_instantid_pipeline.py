"""InstantID's whole loop: every upstream case, guess mode, regions, several ControlNets."""

from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler
from torch import nn

from adapters.instantid.drawing import face_region
from adapters.instantid.networks import build, load_published
from adapters.instantid.pipeline import Control, ControlNets, FaceTokens, Request, decode, draw, project_face
from adapters.instantid.prompts import TextEmbeds
from loader.errors import Cancelled, InputError
from tests.parity.case import case, manifest
from tests.parity.rule import fill, rule_tensor

# diffusers' Euler scheduler calls np.array on a tensor, whose __array__ predates NumPy 2's copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

DESCRIPTION, EXPECTED = case("instantid", "pipeline")
GUESS = case("instantid", "native_guess")[1]["euler_guess"]
ADAPTER = manifest("instantid", "ip_adapter_bin_tiny")


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rand(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def ruled(names: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: rule_tensor(name, torch.empty(shape)) for name, shape in names.items()}


@dataclass
class Networks:
    unet: nn.Module
    identity: nn.Module
    second: nn.Module
    vae: nn.Module
    face: FaceTokens


def tiny_unet() -> nn.Module:
    unet = build("unet", "sdxl", num_tokens=16, **DESCRIPTION["unet_config"])
    base = {name: list(t.shape) for name, t in unet.state_dict().items() if "processor" not in name}
    load_published(unet, "unet", ruled(base))
    load_published(unet, "ip_adapter", ruled(ADAPTER["ip_adapter"]))
    return unet


@pytest.fixture(scope="module")
def projection() -> nn.Module:
    with torch.device("meta"):
        module = build("face_projection", "sdxl", **DESCRIPTION["resampler_config"])
    load_published(module, "face_projection", ruled(ADAPTER["image_proj"]))
    return module


@pytest.fixture(scope="module")
def networks(projection) -> Networks:
    second = build("identity_net", "sdxl", **DESCRIPTION["controlnet_config"])
    state = {name: rule_tensor(f"second.{name}", tensor) for name, tensor in second.state_dict().items()}
    load_published(second, "identity_net", state)
    return Networks(
        unet=tiny_unet(),
        identity=fill(build("identity_net", "sdxl", **DESCRIPTION["controlnet_config"])),
        second=second,
        vae=fill(build("vae", "sdxl", **DESCRIPTION["vae_config"])),
        face=project_face(projection, randn(18, 512)),
    )


def text(count: int = 1) -> TextEmbeds:
    one = TextEmbeds(randn(11, 1, 77, 64), randn(12, 1, 77, 64), randn(13, 1, 32), randn(14, 1, 32))
    return TextEmbeds(*(part.expand(count, *part.shape[1:]) for part in one))


def request(networks: Networks, **changes: object) -> Request:
    base = Request(
        text=text(),
        face=networks.face,
        controls=(Control(networks.identity, rand(16, 1, 3, 128, 96), sees_face=True, strength=0.8),),
        steps=3,
        face_scale=0.8,
        generator=torch.Generator().manual_seed(0),
        latents=randn(15, 1, 4, 16, 12),
    )
    return replace(base, **changes)


def with_second(networks: Networks, *, sees_face: bool) -> tuple[Control, Control]:
    first = request(networks).controls[0]
    return first, Control(networks.second, rand(17, 1, 3, 128, 96), sees_face=sees_face, strength=0.4)


def run(networks: Networks, lcm: bool = False, **changes: object) -> torch.Tensor:
    scheduler = EulerDiscreteScheduler(**DESCRIPTION["scheduler_config"])
    if lcm:
        scheduler = LCMScheduler.from_config(scheduler.config)
    return draw(networks.unet, scheduler, request(networks, **changes))


def region() -> torch.Tensor:
    return torch.from_numpy(face_region((96, 128), (20, 24, 70, 100)))


def close(got: torch.Tensor, expected: torch.Tensor, atol: float = 1e-3) -> None:
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def test_face_tokens_equal_upstream(networks):
    close(torch.cat((networks.face.nobody, networks.face.face)), EXPECTED["face_tokens"], 1e-4)
    assert networks.face.nobody.abs().max() > 1


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("euler_base", {}),
        ("full_nomask", {}),
        ("euler_ip0", {"face_scale": 0.0}),
        ("euler_nocfg", {"guidance": 1.0}),
        ("euler_guess_nocfg", {"guidance": 1.0, "guess_mode": True}),
        ("full_mask", {"region": region()}),
        ("euler_two_images", {"pictures": 2, "latents": randn(21, 2, 4, 16, 12)}),
        ("lcm_cfg5", {"lcm": True}),
        ("lcm_g0", {"lcm": True, "guidance": 0.0}),
    ],
)
def test_loops_equal_upstream(networks, name, changes):
    close(run(networks, **changes), EXPECTED[name], 5e-3 if name.startswith("lcm") else 1e-3)


def test_the_loader_default_strength_equals_upstream(networks):
    control = replace(request(networks).controls[0], strength=1.0)
    close(run(networks, face_scale=Request.face_scale, controls=(control,)), EXPECTED["euler_default_scale"])


def test_a_window_of_steps_equals_upstream(networks):
    control = replace(request(networks).controls[0], start=0.3, end=0.7)
    close(run(networks, controls=(control,)), EXPECTED["euler_cn_window"])


def test_two_photographs_equal_upstream(networks, projection):
    photographs = torch.stack((randn(18, 512), randn(22, 512)))
    close(run(networks, face=project_face(projection, photographs)), EXPECTED["euler_two_faces"])


@pytest.mark.parametrize(
    ("name", "sees_face", "masked"),
    [("full_multi", False, False), ("full_multi_mask", False, True), ("base_multi", True, False)],
)
def test_two_controlnets_equal_upstream(networks, name, sees_face, masked):
    controls = with_second(networks, sees_face=sees_face)
    close(run(networks, controls=controls, region=region() if masked else None), EXPECTED[name])


@pytest.mark.parametrize(
    ("name", "changes"),
    [("euler_base", {}), ("lcm_cfg5", {"lcm": True}), ("full_mask", {"region": region()})],
)
def test_pictures_equal_upstream(networks, name, changes):
    close(decode(networks.vae, run(networks, **changes)), EXPECTED[f"{name}_image"])


def test_guess_mode_shows_the_controlnet_the_conditional_face(networks):
    close(run(networks, guess_mode=True), GUESS)


def test_a_batch_of_prompts_is_drawn_with_one_face(networks):
    # Upstream fails here: its face tokens have the batch of one person.
    single = run(networks)
    both = run(networks, text=text(2), latents=randn(15, 1, 4, 16, 12).expand(2, -1, -1, -1).clone())
    close(both, single.expand(2, -1, -1, -1), 1e-4)


def test_requests_leave_no_trace_in_the_networks(networks):
    before = {name: dict(vars(net)) for name, net in vars(networks).items() if isinstance(net, nn.Module)}
    run(networks, region=region(), face_scale=1.3, guess_mode=True)
    run(networks, controls=with_second(networks, sees_face=False))
    assert all(dict(vars(getattr(networks, name))) == state for name, state in before.items())
    close(run(networks), EXPECTED["euler_base"])


def test_steps_are_reported_and_can_be_stopped(networks):
    seen = []

    def stop(step: int, latents: torch.Tensor) -> None:
        seen.append((step, tuple(latents.shape)))
        if step == 1:
            raise Cancelled("stopped")

    scheduler = EulerDiscreteScheduler(**DESCRIPTION["scheduler_config"])
    with pytest.raises(Cancelled):
        draw(networks.unet, scheduler, request(networks), stop)
    assert seen == [(0, (1, 4, 16, 12)), (1, (1, 4, 16, 12))]


def test_a_drawing_in_bf16_is_near_fp32(networks):
    unet = tiny_unet().bfloat16()
    identity = fill(build("identity_net", "sdxl", **DESCRIPTION["controlnet_config"]))
    low = replace(networks, unet=unet, identity=identity.bfloat16())
    mixed = replace(networks, unet=unet)
    for nets in (low, mixed):
        got = run(nets, region=region())
        assert got.dtype == torch.bfloat16
        assert (got.float() - EXPECTED["full_mask"]).abs().mean() < 0.2


def test_the_decoder_keeps_its_own_dtype(networks):
    vae = fill(build("vae", "sdxl", **DESCRIPTION["vae_config"]))
    latents = EXPECTED["euler_base"]
    exact = EXPECTED["euler_base_image"]
    close(decode(vae, latents.half()), exact, 0.02)
    low = decode(vae.bfloat16(), latents.half())
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().mean() < 0.01


def test_a_controlnet_of_another_dtype_follows_the_sample(networks):
    identity = fill(build("identity_net", "sdxl", **DESCRIPTION["controlnet_config"])).bfloat16()
    nets = ControlNets([identity], [True], region())
    tokens = torch.cat((randn(1, 2, 5, 64), randn(2, 2, 16, 64)), dim=1)
    with torch.inference_mode():
        down, middle = nets(
            randn(3, 2, 4, 16, 12),
            7,
            encoder_hidden_states=tokens,
            controlnet_cond=[rand(4, 2, 3, 128, 96)],
            conditioning_scale=[1.0],
            added_cond_kwargs={"text_embeds": randn(5, 2, 32), "time_ids": torch.zeros(2, 6)},
        )
    assert {residual.dtype for residual in (*down, middle)} == {torch.float32}
    with pytest.raises(ValueError, match="return_dict=False"):
        nets(
            None,
            0,
            encoder_hidden_states=tokens,
            controlnet_cond=[],
            conditioning_scale=[],
            added_cond_kwargs={},
            return_dict=True,
        )


def test_requests_that_cannot_be_drawn_are_refused(networks):
    identity = request(networks).controls[0]
    with pytest.raises(InputError, match="at least one ControlNet"):
        request(networks, controls=())
    with pytest.raises(InputError, match=r"one size, got \[\(64, 96\), \(128, 96\)\]"):
        request(networks, region=torch.ones(64, 96))
    with pytest.raises(InputError, match="one size"):
        request(networks, controls=(identity, replace(identity, picture=rand(0, 1, 3, 96, 96))))
    with pytest.raises(InputError, match="multiples of 8"):
        request(networks, controls=(replace(identity, picture=rand(0, 1, 3, 100, 96)),))


@pytest.mark.parametrize("size", [(72, 104), (136, 88)])
def test_other_sizes_are_drawn_with_a_region(networks, size):
    # Upstream needs multiples of 32 under a region.
    height, width = size
    control = Control(networks.identity, rand(1, 1, 3, height, width), sees_face=True)
    everywhere = torch.ones(height, width)
    latents = randn(2, 1, 4, height // 8, width // 8)
    plain = run(networks, controls=(control,), latents=latents)
    masked = run(networks, controls=(control,), latents=latents, region=everywhere)
    assert plain.shape == (1, 4, height // 8, width // 8)
    close(masked, plain, 1e-4)
