"""DAMO-YOLO's way from pictures to the network and from its predictions to detections."""

import time
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.damo_yolo.labels import COCO_LABELS
from adapters.damo_yolo.postprocess import (
    NANO_SUPPRESSION,
    Detection,
    Suppression,
    class_aware_nms,
    detections,
    select,
    to_picture,
)
from adapters.damo_yolo.preprocess import preprocess
from loader.errors import InputError


def random_boxes(count: int, classes: int, seed: int, spread: float = 400.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * spread
    size = torch.rand(count, 2, generator=generator) * 120
    # Whole hundredths make ties, which the order of the input must break.
    scores = (torch.rand(count, generator=generator) * 100).round() / 100
    return torch.cat([corner, corner + size], dim=1), scores, torch.randint(0, classes, (count,), generator=generator)


def sequential_nms(boxes, scores, classes, iou_threshold):
    """The textbook algorithm, one box at a time, in the same fp32 arithmetic."""
    b = boxes.numpy()
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    waiting = sorted(range(len(b)), key=lambda i: -float(scores[i]))
    kept = []
    while waiting:
        best, *waiting = waiting
        kept.append(best)
        survivors = []
        for other in waiting:
            width = max(min(b[best, 2], b[other, 2]) - max(b[best, 0], b[other, 0]), np.float32(0))
            height = max(min(b[best, 3], b[other, 3]) - max(b[best, 1], b[other, 1]), np.float32(0))
            shared = width * height
            overlap = shared / (area[best] + area[other] - shared)
            if classes[other] != classes[best] or not overlap > np.float32(iou_threshold):
                survivors.append(other)
        waiting = survivors
    return kept


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 90),
    classes=st.integers(1, 4),
    iou_threshold=st.sampled_from([0.0, 0.3, 0.65, 0.7, 1.0]),
    spread=st.sampled_from([20.0, 150.0, 600.0]),
    seed=st.integers(0, 10_000),
)
def test_suppression_equals_the_sequential_algorithm(count, classes, iou_threshold, spread, seed):
    boxes, scores, ids = random_boxes(count, classes, seed, spread)
    assert class_aware_nms(boxes, scores, ids, iou_threshold).tolist() == sequential_nms(
        boxes, scores, ids, iou_threshold
    )


def test_suppression_equals_the_sequential_algorithm_across_blocks():
    boxes, scores, ids = random_boxes(700, 2, seed=3, spread=250.0)
    expected = sequential_nms(boxes, scores, ids, 0.5)
    assert 500 < len(expected) < 600
    assert class_aware_nms(boxes, scores, ids, 0.5, limit=700).tolist() == expected
    assert class_aware_nms(boxes, scores, ids, 0.5).tolist() == expected[:500]
    assert class_aware_nms(boxes, scores, ids, 0.5, limit=100).tolist() == expected[:100]


def test_a_suppressed_box_suppresses_no_other():
    # Each overlaps the next by half, so every second one stays: the case that one-shot suppression gets wrong.
    left = torch.arange(600) * 10.0
    boxes = torch.stack([left, torch.zeros(600), left + 20, torch.full((600,), 20.0)], dim=1)
    kept = class_aware_nms(boxes, torch.linspace(1, 0, 600), torch.zeros(600, dtype=torch.long), 0.3)
    assert kept.tolist() == list(range(0, 600, 2))


def test_a_thousand_candidates_are_suppressed_within_30_ms():
    boxes, scores, ids = random_boxes(1_000, 80, seed=4)

    def seconds() -> float:
        start = time.perf_counter()
        class_aware_nms(boxes, scores, ids, 0.7)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(10)) < 0.030


def test_every_pair_above_the_threshold_is_a_candidate():
    scores = torch.tensor([[0.9, 0.8, 0.05], [0.85, 0.0, 0.0]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9]])
    kept_boxes, kept_scores, classes = select(scores, boxes, Suppression())
    assert classes.tolist() == [0, 1]
    torch.testing.assert_close(kept_scores, torch.tensor([0.9, 0.8]))
    assert kept_boxes.tolist() == boxes[[0, 0]].tolist()


def test_limits_keep_the_best():
    generator = torch.Generator().manual_seed(6)
    scores = torch.rand(300, 4, generator=generator)
    left = torch.arange(300) * 50.0
    boxes = torch.stack([left, left, left + 40, left + 40], dim=1)
    ranked = scores.flatten().sort(descending=True).values
    few = select(scores, boxes, Suppression(score_threshold=0.0, max_candidates=20, max_detections=500))
    assert few[1].tolist() == ranked[:20].tolist()
    fewer = select(scores, boxes, Suppression(score_threshold=0.0, max_detections=7))
    assert fewer[1].tolist() == ranked[:7].tolist()
    assert len(select(scores, boxes, Suppression(score_threshold=0.0))[0]) == 500


def test_equal_scores_at_the_candidate_limit_keep_the_first():
    boxes = torch.arange(50)[:, None] * 50.0 + torch.tensor([0.0, 0.0, 40.0, 40.0])
    kept, _, _ = select(torch.full((50, 1), 0.5), boxes, Suppression(max_candidates=10))
    assert kept.tolist() == boxes[:10].tolist()


def test_low_precision_and_non_finite_scores():
    scores = torch.tensor([[0.9], [float("nan")], [0.8]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    kept_boxes, kept_scores, _ = select(scores.bfloat16(), boxes.bfloat16(), Suppression())
    assert kept_boxes.dtype == kept_scores.dtype == torch.float32
    assert kept_boxes.tolist() == boxes[[0, 2]].tolist()


def test_boxes_scale_by_axis_and_are_clipped():
    boxes = torch.tensor([[-5.0, 10, 300, 400], [32, 64, 64, 128]])
    placed = to_picture(boxes, network_size=(320, 160), picture_size=(640, 800))
    assert placed.tolist() == [[0.0, 20.0, 800.0, 640.0], [160.0, 128.0, 320.0, 256.0]]


def test_detections_carry_label_and_place_in_the_picture():
    scores = torch.zeros(3, 80)
    scores[0, 16], scores[1, 0], scores[2, 2] = 0.7, 0.9, 0.8
    boxes = torch.tensor([[32.0, 32, 64, 64], [0.0, 0, 32, 16], [-40.0, 0, -8, 16]])
    found = detections(
        scores,
        boxes,
        network_size=(64, 64),
        picture_size=(128, 256),
        labels=COCO_LABELS,
        settings=NANO_SUPPRESSION,
    )
    # The third lies outside the picture.
    assert [(d.label, d.class_id, d.box) for d in found] == [
        ("person", 0, (0.0, 0.0, 128.0, 32.0)),
        ("dog", 16, (128.0, 64.0, 256.0, 128.0)),
    ]
    assert found[0].score == pytest.approx(0.9)
    with pytest.raises(FrozenInstanceError):
        found[0].score = 1.0
    assert isinstance(found[0], Detection)


def test_no_candidates_no_detections():
    sizes = {"network_size": (64, 64), "picture_size": (64, 64)}
    assert detections(torch.zeros(84, 2), torch.zeros(84, 4), labels=("a", "b"), settings=Suppression(), **sizes) == ()
    with pytest.raises(InputError, match=r"\[84, 2\] do not go with 80 labels"):
        detections(torch.zeros(84, 2), torch.zeros(84, 4), labels=COCO_LABELS, settings=Suppression(), **sizes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"score_threshold": 1.2}, "score threshold.*1.2"),
        ({"iou_threshold": -0.1}, "overlap.*-0.1"),
        ({"max_detections": 0}, "max_detections.*0"),
        ({"max_candidates": 0}, "max_candidates.*0"),
        ({"score_threshold": float("nan")}, "score threshold.*nan"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        Suppression(**setting)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel-centred bilinear samples of [H,W,3], in float64."""

    def taps(new: int, old: int):
        at = (np.arange(new) + 0.5) * old / new - 0.5
        low = np.floor(at)
        return np.clip(low, 0, old - 1).astype(int), np.clip(low + 1, 0, old - 1).astype(int), at - low

    y0, y1, fy = taps(height, image.shape[0])
    x0, x1, fx = taps(width, image.shape[1])
    fy, fx = fy[:, None, None], fx[None, :, None]
    pixels = image.astype(np.float64)
    rows = pixels[y0] * (1 - fy) + pixels[y1] * fy
    return rows[:, x0] * (1 - fx) + rows[:, x1] * fx


@pytest.mark.parametrize(("height", "width"), [(97, 151), (300, 200), (20, 500)])
def test_pictures_are_resized_bilinearly_to_whole_values(height, width):
    image = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    tensor = preprocess(image, (96, 160))
    assert tensor.shape == (1, 3, 96, 160)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert torch.equal(tensor, tensor.round())
    difference = np.abs(tensor[0].permute(1, 2, 0).numpy() - bilinear(image, 96, 160))
    assert difference.max() <= 1.0
    assert torch.equal(preprocess(torch.from_numpy(image), (96, 160)), tensor)
    mirrored = preprocess(image[:, ::-1], (96, 160))
    assert (mirrored.flip(-1) - tensor).abs().max() <= 1


def test_a_picture_of_the_networks_size_keeps_its_values_and_channel_order():
    image = np.zeros((32, 64, 3), dtype=np.uint8)
    image[..., 0] = 200
    image[3, 5, 2] = 9
    tensor = preprocess(image, (32, 64))
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32, 3), dtype=np.float32),
        np.zeros((32, 32), dtype=np.uint8),
        np.zeros((32, 32, 4), dtype=np.uint8),
        np.zeros((0, 32, 3), dtype=np.uint8),
    ],
)
def test_other_pictures_are_refused(image):
    with pytest.raises(InputError, match="of uint8, got"):
        preprocess(image, (64, 64))


@pytest.mark.parametrize("size", [(0, 64), (64, 100), (33, 32)])
def test_other_network_sizes_are_refused(size):
    with pytest.raises(InputError, match="multiples of 32, got"):
        preprocess(np.zeros((8, 8, 3), dtype=np.uint8), size)


def test_labels_are_the_eighty_of_coco():
    assert len(COCO_LABELS) == len(set(COCO_LABELS)) == 80
    places = {"person": 0, "dog": 16, "cup": 41, "cake": 55, "tv": 62, "toothbrush": 79}
    assert {name: COCO_LABELS.index(name) for name in places} == places
