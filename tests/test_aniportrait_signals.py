"""AniPortrait's networks for drawn poses and for sound: parity with upstream, other sizes, refusals."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from adapters.aniportrait.networks import build
from adapters.aniportrait.networks.audio2pose import distance_penalty
from adapters.aniportrait.networks.pose_guider import PoseNorm
from tests.aniportrait_cases import call, check, filled, on_meta, pose_bytes, tiny, waveform
from tests.parity.case import case, manifest
from tests.parity.rule import fill
from tests.parity.rule import manifest as names_and_shapes

# ---- pose guider


@pytest.fixture
def guider() -> Iterator[nn.Module]:
    yield filled("pose_guider")
    filled("pose_guider").to(memory_format=torch.contiguous_format).faithful = True


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize("strides", ["contiguous", "channels_last"])
def test_the_pose_guider_equals_upstream_in_both_modes(guider, faithful, strides):
    _, expected = case("aniportrait", "pose_guider_tiny")
    pose = 2 * pose_bytes() - 1 if faithful else 2 * pose_bytes() / 255 - 1
    if strides == "channels_last":
        guider.to(memory_format=torch.channels_last)
        pose = pose.to(memory_format=torch.channels_last_3d)
    guider.faithful = faithful
    before = {name: tensor.clone() for name, tensor in guider.state_dict().items() if "running" in name}
    kind = "train_raw255" if faithful else "eval_norm"
    for index, level in enumerate(call(guider, pose)):
        check("pose_guider_tiny", level, expected[f"{kind}.{index}"])
    assert all(torch.equal(tensor, guider.state_dict()[name]) for name, tensor in before.items())


def test_the_batch_norm_mode_is_the_guiders_to_choose():
    module = on_meta("pose_guider")
    assert module.faithful
    module.faithful = False
    norms = [part for part in module.modules() if isinstance(part, PoseNorm)]
    assert len(norms) == 15
    assert not any(norm.of_the_call for norm in norms)
    assert module.eval().faithful is False


def test_batch_statistics_depend_on_the_other_frames_and_stored_ones_do_not(guider):
    pose = 2 * pose_bytes()[..., :64] / 255 - 1
    for faithful in (False, True):
        guider.faithful = faithful
        together, alone = call(guider, pose), call(guider, pose[:, :, :1])
        close = [torch.allclose(a[:, :, :1], b, atol=1e-4) for a, b in zip(together, alone, strict=True)]
        assert all(close) is not faithful


def test_a_single_value_has_no_statistics():
    module = filled("pose_guider")
    with pytest.raises(ValueError, match="faithful=False"):
        call(module, torch.zeros(1, 3, 1, 64, 64))
    assert call(module, torch.zeros(1, 3, 2, 64, 64)).middle.shape == (1, 128, 2, 1, 1)
    with pytest.raises(ValueError, match=r"\[B, 3, F, H, W\], got \[3, 64, 64\]"):
        call(module, torch.zeros(3, 64, 64))


def test_a_guider_without_attention():
    with torch.device("meta"):
        names = names_and_shapes(build("pose_guider", "320", use_ca=False))
    assert names == {
        name: shape for name, shape in manifest("aniportrait", "pose_guider_full").items() if "cross_attn" not in name
    }
    assert len(call(tiny("pose_guider", use_ca=False), torch.zeros(1, 3, 2, 64, 64))) == 5


# ---- audio


def test_audio2mesh_equals_upstream():
    _, expected = case("aniportrait", "audio2mesh_tiny")
    module = filled("audio2mesh")
    check("audio2mesh_tiny", waveform()[0], expected["input_values"])
    with torch.inference_mode():
        check("audio2mesh_tiny", module.sound_features(waveform(), 38), expected["conv_features_interpolated"])
        check("audio2mesh_tiny", module.encode(waveform(), 38), expected["last_hidden_state"])
    mesh = call(module, waveform(), 38)
    assert mesh.shape == (1, 38, 468, 3)
    check("audio2mesh_tiny", mesh, expected["mesh"])
    averaging = fill(tiny("audio2mesh", only_last_fetures=False))
    check("audio2mesh_tiny", call(averaging, waveform(), 38), expected["mesh_avg_hidden_states"])


def test_audio2pose_equals_upstream():
    _, expected = case("aniportrait", "audio2pose_tiny")
    module = filled("audio2pose")
    check("audio2pose_tiny", call(module, waveform(), 38, 7), expected["pose_id7"])
    check("audio2pose_tiny", call(module, waveform(), 38, 63), expected["pose_id63"])
    true_places = fill(tiny("audio2pose"), skip=("PPE.pe",))
    check("audio2pose_tiny", call(true_places, waveform(), 38, 7), expected["pose_id7_true_pe"])


def test_the_distance_penalty_equals_upstreams_mask():
    _, expected = case("aniportrait", "audio2pose_tiny")
    row = distance_penalty(600)
    torch.testing.assert_close(row, expected["biased_mask_600_lastrow"])
    for frame in range(8):
        seen = expected["biased_mask_8x8"][:, frame]
        torch.testing.assert_close(row[:, 600 - 1 - frame :], seen[:, : frame + 1])
        assert (seen[:, frame + 1 :] == -1e30).all()


def test_audio_takes_batches_and_refuses_what_it_cannot_hear():
    mesh, pose = filled("audio2mesh"), filled("audio2pose")
    pair = torch.cat((waveform(), waveform().flip(1)))
    torch.testing.assert_close(call(mesh, pair, 20)[1:], call(mesh, pair[1:], 20), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(call(pose, pair, 5, 3)[1:], call(pose, pair[1:], 5, 3), atol=1e-4, rtol=1e-4)
    assert call(pose, waveform(), 1).shape == (1, 1, 6)
    assert mesh.shortest == 400
    assert call(mesh, waveform()[:, :400], 2).shape == (1, 2, 468, 3)
    for module in (mesh, pose):
        with pytest.raises(ValueError, match=r"at least 400 samples, got \[1, 399\]"):
            call(module, waveform()[:, :399], 2)
    with pytest.raises(ValueError, match="at least 1 frame"):
        call(mesh, waveform(), 0)
    with pytest.raises(ValueError, match="1 to 600 frames at once, got 601"):
        call(pose, waveform(), 601)
    with pytest.raises(ValueError, match="0 to 99, got 100"):
        call(pose, waveform(), 2, 100)
