"""Own weights beyond a single pickle: ``.onnx`` files through the same engine, and folders as of ModelScope."""

import json

import numpy as np
import pytest
import torch

from adapters import adapter
from adapters.damo_yolo import exports, job
from adapters.damo_yolo.networks import build
from adapters.damo_yolo.onnx_file import OnnxDetector
from adapters.damo_yolo.pipeline import DetectRequest
from adapters.damo_yolo.postprocess import Suppression
from kit.images import Picture
from loader.errors import CheckpointMismatchError, InputError, WeightsCorruptError, WeightsError
from loader.outcome import Result
from loader.place import call_guard, place
from loader.plan import Placement
from loader.wishes import Wishes
from tests.machines import engine_on, host_with
from tests.onnx_bytes import FLOAT, FLOAT16, brightness_detector, classifier, model, node, value_info

SPEC = adapter("damo_yolo")
SIZE = (96, 128)
# The graph decides what is computed; the plan is made for the variant it is used as.
WISHES = Wishes(variant="Ns", size=SIZE)
OPTIONS = {name: default for name, (_, default, _) in job.OPTIONS.items()}


def picture(*cells, size=(192, 256), name="cells.png"):
    """A black picture, twice the network's size, with cells (row, column, colour) filled."""
    rgb = np.zeros((*size, 3), np.uint8)
    for row, column, colour in cells:
        rgb[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64, colour] = 230
    return Picture(rgb, name)


RED_AND_BLUE = picture((0, 1, 0), (1, 2, 2))


@pytest.fixture
def engine(tmp_path):
    made = engine_on(host_with(), tmp_path)
    yield made
    made.close()


@pytest.fixture
def write(tmp_path):
    def written(data, name="mine.onnx"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return written


def run(engine, path, *pictures, wishes=WISHES) -> Result:
    *_, last = engine.run(SPEC, DetectRequest(pictures, Suppression(0.5)), wishes, checkpoint=path)
    assert isinstance(last, Result)
    return last


def found(seen):
    return sorted((d.label, round(d.score, 2), d.box) for d in seen.detections)


EXPECTED = [("class 0", 0.9, (64.0, 0.0, 128.0, 64.0)), ("class 2", 0.9, (128.0, 64.0, 192.0, 128.0))]


# --- .onnx --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_onnx_file_detects_in_the_place_of_the_network(engine, write, tmp_path, dtype):
    path = write(brightness_detector(SIZE))
    wishes = Wishes(variant="Ns", size=SIZE, dtype=dtype)
    result = run(engine, path, RED_AND_BLUE, wishes=wishes)
    assert found(result.outputs[0]) == EXPECTED
    assert result.weights == "own file mine.onnx"
    assert result.trace == ()
    # The plan's dtype is not what the graph computes in.
    settings = exports.settings_of(result, Suppression(0.5))
    assert (settings["variant"], settings["dtype"]) == ("as in the file", "as in the file")
    job.write(result, job.PictureJob((RED_AND_BLUE,)), tmp_path / "out")
    assert "own file mine.onnx" in (tmp_path / "out" / "cells-detections.json").read_text()


@pytest.mark.parametrize("batch", [1, 2, 4, "n"])
def test_whatever_batch_the_file_is_bound_to_every_picture_gets_its_own_answer(engine, write, batch):
    path = write(brightness_detector(SIZE, batch=batch))
    pictures = [picture((0, i, 0)) for i in range(3)]
    result = run(engine, path, *pictures, wishes=Wishes(variant="Ns", size=SIZE, batch=3))
    assert [seen.detections[0].box[0] for seen in result.outputs] == [0.0, 64.0, 128.0]


def test_a_half_precision_file_runs(engine, write):
    path = write(brightness_detector(SIZE, element=FLOAT16))
    assert found(run(engine, path, RED_AND_BLUE).outputs[0]) == EXPECTED


def test_the_size_a_file_is_bound_to_is_named(engine, write):
    path = write(brightness_detector(SIZE))
    with pytest.raises(InputError, match=r"96×128 only, not 128×96: choose size 96x128"):
        run(engine, path, RED_AND_BLUE, wishes=Wishes(variant="Ns", size=(128, 96)))
    run(engine, path, RED_AND_BLUE)
    # Loaded already: the size is checked again, not only while loading.
    with pytest.raises(InputError, match="choose size 96x128"):
        run(engine, path, RED_AND_BLUE, wishes=Wishes(variant="Ns", size=(128, 96)))
    assert not engine._lane.locked()


def test_boxes_are_told_from_scores_in_either_order(write):
    red = torch.zeros(1, 3, *SIZE)
    red[:, 0, :32, 32:64] = 255
    for data in (
        brightness_detector(SIZE, boxes_first=True),
        brightness_detector(SIZE, boxes_first=True, says_classes=False),
        brightness_detector(SIZE, boxes_first=True, classes=4, names=("scores", "boxes")),
        brightness_detector(SIZE, classes=4),
    ):
        scores, boxes = OnnxDetector(write(data), SIZE, threads=1)(red)
        assert scores[0, 1, 0] == 1.0
        assert boxes[0, 1].tolist() == [32.0, 0.0, 64.0, 32.0]


@pytest.mark.parametrize(
    "placement",
    [
        {"compute_dtype": "bf16", "storage_dtype": "bf16", "keep_fp32": ("head.integral", "head.scales")},
        {"compute_dtype": "fp32", "storage_dtype": "bf16"},
        {"compute_dtype": "fp32", "storage_dtype": "fp32", "compile": "default"},
    ],
    ids=["bf16", "stored in bf16", "compiled"],
)
def test_no_placement_breaks_a_module_without_parameters(write, placement):
    settings = {
        "name": "detector",
        "device": "cpu",
        "residency": "resident",
        "memory_format": "channels_last",
        "attention": "sdpa",
        "compile": "none",
        "bytes": 0,
        "fuse": True,
        **placement,
    }
    made = Placement(**settings)
    module = place(
        OnnxDetector(write(brightness_detector(SIZE)), SIZE, threads=1), made, ("head.integral", "head.scales")
    )
    images = torch.randint(0, 256, (2, 3, *SIZE)).float()
    scores, _ = call_guard(module, made)(images)
    means = torch.nn.functional.avg_pool2d(images, 32).flatten(2).transpose(1, 2) / 255
    assert scores.dtype == torch.float32
    # Whole values up to 255 survive bf16, so nothing is lost on the way.
    assert torch.allclose(scores, means, atol=1e-6)


def suppressed():
    """What an export with suppression inside looks like: four outputs."""
    nodes = [node("Identity", ["images"], name) for name in ("num_dets", "det_boxes", "det_scores", "det_classes")]
    names = ("num_dets", "det_boxes", "det_scores", "det_classes")
    dims = [1, 3, *SIZE]
    return model(nodes, [], [value_info("images", FLOAT, dims)], [value_info(n, FLOAT, dims) for n in names])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (classifier(), r"expected one input \[B, 3, H, W\].*found.*logits tensor\(float\) \[1, 3, 1, 1\]"),
        (suppressed(), r"num_dets.*det_boxes.*without suppression"),
    ],
    ids=["classifier", "with suppression"],
)
def test_an_onnx_file_of_something_else_is_refused_with_what_was_expected_and_found(engine, write, data, says):
    with pytest.raises(WeightsError, match=says):
        run(engine, write(data), RED_AND_BLUE)
    assert not engine._lane.locked()


def test_a_broken_onnx_file_is_told_from_a_missing_one(engine, write, tmp_path):
    whole = brightness_detector(SIZE)
    with pytest.raises(WeightsCorruptError, match=rf"{len(whole) // 2:,} bytes\) cannot be opened as an ONNX"):
        run(engine, write(whole[: len(whole) // 2]), RED_AND_BLUE)
    with pytest.raises(WeightsCorruptError, match="ONNX"):
        run(engine, write(b"<html>not found</html>"), RED_AND_BLUE)
    with pytest.raises(WeightsError, match="cannot be read"):
        run(engine, tmp_path / "missing.onnx", RED_AND_BLUE)


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    return build("detector", "Ns", num_classes=2).state_dict()


def folder_with(tmp_path, name, content, **more):
    folder = tmp_path / "cv_tinynas_detection"
    folder.mkdir()
    described = {"framework": "pytorch", "task": "domain-specific-object-detection", "model": {"name": name}}
    (folder / "configuration.json").write_text(json.dumps(described))
    (folder / "README.md").write_text("a model card")
    torch.save(content, folder / name)
    for other, value in more.items():
        torch.save(value, folder / f"{other}.pt")
    return folder


@pytest.mark.parametrize("key", ["model", "state_dict", ""])
def test_a_folder_as_modelscope_lays_it_out_runs(engine, state, tmp_path, key):
    # Trained in parallel, every name begins with "module."; an epoch beside the state dict does no harm.
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    content = {key: prefixed, "epoch": 300} if key else prefixed
    folder = folder_with(tmp_path, "detector.pt", content)
    *_, result = engine.run(SPEC, DetectRequest((RED_AND_BLUE,), Suppression(0.0)), WISHES, checkpoint=folder)
    assert result.outputs[0].labels == ("class 0", "class 1")
    assert result.weights == "own file cv_tinynas_detection"
    assert result.outputs[0].detections


def test_of_several_checkpoints_in_a_folder_the_described_one_is_taken(engine, state, tmp_path):
    folder = folder_with(tmp_path, "detector.pt", {"model": state}, optimiser={"a": torch.zeros(1)})
    assert run(engine, folder, RED_AND_BLUE).outputs[0].labels == ("class 0", "class 1")
    (folder / "configuration.json").unlink()
    with pytest.raises(InputError, match=r"2 checkpoints \(detector\.pt, optimiser\.pt\): name one"):
        run(engine, folder, RED_AND_BLUE, wishes=Wishes(variant="Ns", size=(96, 96)))


def test_a_folder_without_weights_says_so(engine, tmp_path):
    with pytest.raises(InputError, match="holds no weights"):
        run(engine, tmp_path, RED_AND_BLUE)


def test_a_state_dict_of_another_network_names_what_is_missing(engine, tmp_path):
    folder = folder_with(tmp_path, "resnet.pth", {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "epoch": 1})
    with pytest.raises(CheckpointMismatchError, match=r"head\.gfl_cls\.0\.bias"):
        run(engine, folder, RED_AND_BLUE)


@pytest.mark.parametrize(("columns", "labels"), [(1, 1), (2, 2), (80, 80), (81, 80)])
def test_heads_of_any_width_get_their_labels(engine, tmp_path, columns, labels):
    torch.save(build("detector", "Ns", num_classes=columns).state_dict(), tmp_path / "mine.pth")
    *_, result = engine.run(
        SPEC, DetectRequest((RED_AND_BLUE,), Suppression(0.0)), WISHES, checkpoint=tmp_path / "mine.pth"
    )
    names = result.outputs[0].labels
    assert len(names) == labels
    assert names[0] == ("person" if labels == 80 else "class 0")
    # A column without a label, as heads of before 2023 have, never comes out.
    assert all(d.class_id < labels for d in result.outputs[0].detections)
