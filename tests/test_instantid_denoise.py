"""InstantID's whole loop: every upstream case, guess mode, regions, several ControlNets, diffusers' own pipelines."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import nn

from adapters.instantid.codec import LatentCodec
from adapters.instantid.denoise import (
    Control,
    Drawing,
    FaceTokens,
    State,
    advance,
    ahead,
    begin,
    begin_from,
    noise,
    predicted,
    project_face,
    seeded,
    step_once,
)
from adapters.instantid.drawing import face_region
from adapters.instantid.networks import build, load_published
from adapters.instantid.prompts import TextEmbeds
from adapters.instantid.schedulers import SCHEDULERS, scheduler_for
from loader.errors import InputError
from tests import instantid_library as library
from tests.parity.case import case, manifest
from tests.parity.rule import fill, rule_tensor

# diffusers' schedulers hand tensors to numpy, whose own ways of converting them predate NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
]

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


def drawing(networks: Networks, **changes: object) -> Drawing:
    base = Drawing(
        text=text(),
        face=networks.face,
        controls=(Control("identity_net", rand(16, 1, 3, 128, 96), sees_face=True, strength=0.8),),
        face_scale=0.8,
    )
    return replace(base, **changes)


def with_second(networks: Networks, *, sees_face: bool) -> tuple[Control, Control]:
    first = drawing(networks).controls[0]
    return first, Control("second", rand(17, 1, 3, 128, 96), sees_face=sees_face, strength=0.4)


def described() -> Any:
    return EulerDiscreteScheduler(**DESCRIPTION["scheduler_config"])


def nets_of(networks: Networks) -> dict[str, nn.Module]:
    return {"unet": networks.unet, "identity_net": networks.identity, "second": networks.second, "vae": networks.vae}


def caller(networks: Networks) -> Any:
    nets = nets_of(networks)

    def call(component: str, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            return nets[component](*args, **kwargs)

    return call


def finish(networks: Networks, asked: Drawing, state: State, batch: int = 0) -> torch.Tensor:
    while not state.done:
        state = step_once(caller(networks), asked, state, batch)
    return state.latents


def run(
    networks: Networks,
    scheduler: str = "",
    *,
    steps: int = 3,
    latents: torch.Tensor | None = None,
    batch: int = 0,
    **changes: object,
) -> torch.Tensor:
    latents = randn(15, 1, 4, 16, 12) if latents is None else latents
    generators = (torch.Generator().manual_seed(0), *seeded(range(1, len(latents))))
    state = begin(scheduler_for(scheduler) if scheduler else described(), steps, latents, generators)
    return finish(networks, drawing(networks, **changes), state, batch)


def decoded(networks: Networks, latents: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return LatentCodec(networks.vae)(latents)


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
        ("euler_two_images", {"text": text(2), "latents": randn(21, 2, 4, 16, 12)}),
        ("lcm_cfg5", {"scheduler": "lcm"}),
        ("lcm_g0", {"scheduler": "lcm", "guidance": 0.0}),
    ],
)
def test_loops_equal_upstream(networks, name, changes):
    close(run(networks, **changes), EXPECTED[name], 5e-3 if name.startswith("lcm") else 1e-3)


def test_the_loader_default_strength_equals_upstream(networks):
    control = replace(drawing(networks).controls[0], strength=1.0)
    close(run(networks, face_scale=Drawing.face_scale, controls=(control,)), EXPECTED["euler_default_scale"])


def test_a_window_of_steps_equals_upstream(networks):
    control = replace(drawing(networks).controls[0], start=0.3, end=0.7)
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
    [("euler_base", {}), ("lcm_cfg5", {"scheduler": "lcm"}), ("full_mask", {"region": region()})],
)
def test_pictures_equal_upstream(networks, name, changes):
    close(decoded(networks, run(networks, **changes)), EXPECTED[f"{name}_image"])


def test_guess_mode_shows_the_controlnet_the_conditional_face(networks):
    close(run(networks, guess_mode=True), GUESS)


# --- diffusers' own pipelines, where upstream has no case or fails ---


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in SCHEDULERS),
        ("euler", {"guess_mode": True}),
        ("dpm", {"region": region(), "guidance": 1.0}),
    ],
)
def test_a_loop_equals_the_library_s(networks, name, changes):
    asked = drawing(networks, controls=with_second(networks, sees_face=False), text=text(2), **changes)
    latents = randn(21, 2, 4, 16, 12)
    ours = finish(networks, asked, begin(scheduler_for(name), 3, latents, seeded((3, 4))), batch=1)
    theirs = library.draw(
        nets_of(networks),
        scheduler_for(name),
        asked,
        latents=latents,
        num_inference_steps=3,
        generator=list(seeded((3, 4))),
    )
    close(ours, theirs, 5e-3 if name == "lcm" else 1e-3)


@pytest.mark.parametrize(("name", "strength"), [*((name, 0.5) for name in SCHEDULERS), ("euler", 1.0), ("heun", 1.0)])
def test_a_loop_from_a_picture_equals_the_library_s(networks, name, strength):
    asked, picture = drawing(networks, region=region()), randn(30, 1, 4, 16, 12)
    generators = seeded((5,))
    latents = noise(asked.size, generators)
    state = begin_from(scheduler_for(name), 4, picture, latents, generators, strength)
    theirs = library.draw(
        nets_of(networks),
        scheduler_for(name),
        asked,
        picture=picture,
        strength=strength,
        num_inference_steps=4,
        generator=seeded((5,))[0],
    )
    close(finish(networks, asked, state), theirs, 5e-3 if name == "lcm" else 1e-3)


def test_a_change_too_small_for_one_step_is_refused():
    with pytest.raises(InputError, match=r"0\.1 over 4 steps leaves no step.*0\.25"):
        begin_from(scheduler_for("euler"), 4, randn(1, 1, 4, 2, 2), randn(2, 1, 4, 2, 2), seeded((1,)), 0.1)


# --- what upstream has wrong, and what makes a step repeatable ---


def test_an_unknown_scheduler_names_those_there_are():
    with pytest.raises(InputError, match=r"'ddpm'.*euler, dpm, dpm_karras"):
        scheduler_for("ddpm")


def test_a_batch_of_prompts_is_drawn_with_one_face(networks):
    # Upstream fails here: its face tokens have the batch of one person.
    single = run(networks)
    both = run(networks, text=text(2), latents=randn(15, 1, 4, 16, 12).expand(2, -1, -1, -1).clone())
    close(both, single.expand(2, -1, -1, -1), 1e-4)


@pytest.mark.parametrize("name", ["euler", "lcm", "dpm_karras_sde"])
def test_a_picture_does_not_depend_on_those_beside_it(networks, name):
    def drawn(seeds: tuple[int, ...], batch: int = 0) -> torch.Tensor:
        asked, generators = drawing(networks, text=text(len(seeds))), seeded(seeds)
        state = begin(scheduler_for(name), 3, noise(asked.size, generators), generators)
        return finish(networks, asked, state, batch)

    together = drawn((7, 8, 9))
    close(drawn((7, 8, 9), batch=2), together, 2e-3)
    close(drawn((8,)), together[1:2], 2e-3)
    assert (together[0] - together[1]).abs().max() > 1
    assert torch.equal(drawn((8,)), drawn((8,)))


@pytest.mark.parametrize("name", [*SCHEDULERS])
def test_a_step_can_be_taken_again(networks, name):
    asked, generators = drawing(networks), seeded((7,))
    state = begin(scheduler_for(name), 4, noise(asked.size, generators), generators)
    state = step_once(caller(networks), asked, state)
    before = state.latents.clone()
    first = step_once(caller(networks), asked, state)
    again = step_once(caller(networks), asked, state)
    assert torch.equal(state.latents, before)
    assert (state.step, first.step) == (1, 2)
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(finish(networks, asked, first), finish(networks, asked, again))


def test_a_number_for_the_timestep_survives_low_precision(networks):
    """A tensor would be cast to bf16, where 965.6 is 964."""
    seen = []

    def call(component: str, *args: Any, **kwargs: Any) -> Any:
        seen.append(args[1])
        return caller(networks)(component, *args, **kwargs)

    state = begin(scheduler_for("euler"), 3, randn(1, 1, 4, 16, 12), seeded((1,)))
    step_once(call, drawing(networks), state)
    assert [type(timestep) for timestep in seen] == [float, float]


def test_requests_leave_no_trace_in_the_networks(networks):
    before = {name: dict(vars(net)) for name, net in vars(networks).items() if isinstance(net, nn.Module)}
    run(networks, region=region(), face_scale=1.3, guess_mode=True)
    run(networks, controls=with_second(networks, sees_face=False))
    assert all(dict(vars(getattr(networks, name))) == state for name, state in before.items())
    close(run(networks), EXPECTED["euler_base"])


def test_a_silent_controlnet_is_not_asked(networks):
    asked, called = drawing(networks), []

    def call(component: str, *args: Any, **kwargs: Any) -> Any:
        called.append(component)
        return caller(networks)(component, *args, **kwargs)

    mute = replace(asked.controls[0], strength=0.0)
    state = begin(scheduler_for("euler"), 3, randn(15, 1, 4, 16, 12), seeded((1,)))
    step_once(call, replace(asked, controls=(mute,)), state)
    assert called == ["unet"]
    seen = predicted(caller(networks), asked, ahead(state), slice(0, 1), None)
    close(advance(state, seen).latents, step_once(call, replace(asked, controls=(mute,)), state).latents)


def test_drawings_that_cannot_be_drawn_are_refused(networks):
    identity = drawing(networks).controls[0]
    with pytest.raises(InputError, match="at least one ControlNet"):
        drawing(networks, controls=())
    with pytest.raises(InputError, match=r"one size, got \[\(64, 96\), \(128, 96\)\]"):
        drawing(networks, region=torch.ones(64, 96))
    with pytest.raises(InputError, match="one size"):
        drawing(networks, controls=(identity, replace(identity, picture=rand(0, 1, 3, 96, 96))))
    with pytest.raises(InputError, match="multiples of 8"):
        drawing(networks, controls=(replace(identity, picture=rand(0, 1, 3, 100, 96)),))


@pytest.mark.parametrize("size", [(72, 104), (136, 88)])
def test_other_sizes_are_drawn_with_a_region(networks, size):
    # Upstream needs multiples of 32 under a region.
    height, width = size
    control = Control("identity_net", rand(1, 1, 3, height, width), sees_face=True)
    latents = randn(2, 1, 4, height // 8, width // 8)
    plain = run(networks, controls=(control,), latents=latents)
    masked = run(networks, controls=(control,), latents=latents, region=torch.ones(height, width))
    assert plain.shape == (1, 4, height // 8, width // 8)
    close(masked, plain, 1e-4)


# --- the autoencoder ---


def test_pictures_and_latents_go_both_ways(networks):
    codec = LatentCodec(networks.vae)
    latents = EXPECTED["euler_base"]
    picture = decoded(networks, latents)
    with torch.inference_mode():
        assert codec(picture, "encode").shape == latents.shape
        assert torch.equal(codec(picture, "encode"), codec(picture, "encode"))
        with pytest.raises(InputError, match="not 'paint'"):
            codec(latents, "paint")


def test_tiles_give_nearly_the_same_picture_and_are_not_left_on(networks):
    vae = fill(build("vae", "sdxl", **{**DESCRIPTION["vae_config"], "sample_size": 64}))
    codec, latents = LatentCodec(vae), randn(5, 1, 4, 24, 24)
    with torch.inference_mode():
        whole, tiled = codec(latents), codec(latents, tiled=True)
        assert not torch.equal(whole, tiled)
        assert (whole - tiled).abs().mean() < 0.1
        assert torch.equal(codec(latents), whole)


def test_the_decoder_keeps_its_own_dtype(networks):
    vae = fill(build("vae", "sdxl", **DESCRIPTION["vae_config"])).bfloat16()
    with torch.inference_mode():
        low = LatentCodec(vae)(EXPECTED["euler_base"].bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.float() - EXPECTED["euler_base_image"]).abs().mean() < 0.01
