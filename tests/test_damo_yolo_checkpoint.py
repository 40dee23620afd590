"""A user's own checkpoint: by path, as pickle or safetensors, with its own classes; and one of something else."""

import json

import pytest
import torch
from safetensors.torch import save_file

from adapters import adapter
from adapters.damo_yolo.networks import build
from adapters.damo_yolo.pipeline import DetectRequest
from adapters.damo_yolo.postprocess import Suppression
from kit.images import open_picture
from loader.errors import CheckpointMismatchError, InputError, WeightsError
from loader.outcome import Result
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

SPEC = adapter("damo_yolo")
REQUEST = DetectRequest((open_picture(ROOT / "assets" / "examples" / "coins.png"),), Suppression(score_threshold=0.0))
NS = Wishes(variant="Ns", size=(320, 320))


@pytest.fixture
def engine(tmp_path):
    made = engine_on(host_with(), tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return {name: tensor.contiguous() for name, tensor in build("detector", "Ns", num_classes=3).state_dict().items()}


def run(engine, path, wishes=NS) -> Result:
    *_, last = engine.run(SPEC, REQUEST, wishes, checkpoint=path)
    return last


@pytest.mark.parametrize("wrapped", [True, False], ids=["under model", "bare"])
def test_a_pickle_runs_with_as_many_classes_as_it_has(engine, state, tmp_path, wrapped):
    path = tmp_path / "mine.pth"
    torch.save({"model": state} if wrapped else state, path)
    result = run(engine, path)
    assert result.outputs[0].labels == ("class 0", "class 1", "class 2")
    assert result.weights == "own file mine.pth"
    assert result.outputs[0].detections


def test_safetensors_bring_their_labels(engine, state, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(state, path, metadata={"labels": json.dumps(["ant", "bee", "cat"])})
    assert run(engine, path).outputs[0].labels == ("ant", "bee", "cat")


def test_the_same_weights_give_the_same_boxes_whatever_the_format(engine, state, tmp_path):
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.safetensors")
    first, second = run(engine, tmp_path / "a.pth"), run(engine, tmp_path / "b.safetensors")
    assert [d.box for d in first.outputs[0].detections] == [d.box for d in second.outputs[0].detections]


def test_a_missing_tensor_is_named(engine, state, tmp_path):
    broken = {k: v for k, v in state.items() if k != "neck.merge_3.conv1.conv.weight"}
    assert len(broken) == len(state) - 1
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"1 missing: neck\.merge_3\.conv1\.conv\.weight"):
        run(engine, tmp_path / "broken.safetensors")
    assert not engine._lane.locked()


def test_another_variant_is_recognised(engine, tmp_path):
    torch.save(build("detector", "Nm", num_classes=3).state_dict(), tmp_path / "middle.pth")
    with pytest.raises(InputError, match="choose variant Nm"):
        run(engine, tmp_path / "middle.pth")


def test_something_else_entirely_is_refused(engine, tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises((CheckpointMismatchError, WeightsError)):
        run(engine, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        run(engine, tmp_path / "cut.pth")
