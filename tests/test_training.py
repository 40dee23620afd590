"""Rendered scenes, the training loss, and what the shipped preview weights can do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from adapters.damo_yolo.networks import build
from training.assign import assign, pairwise_iou
from training.coins import photograph, segmented, true_boxes
from training.data import HELD_OUT_SEED, Augmentation, augmented, batches, collated, render_many
from training.detector import Settings, predictions, save, train
from training.evaluate import Found, average_precision, iou_matrix, matched, metrics
from training.evaluate_detector import DISPLAY_SCORE, WEIGHTS, count_coins, held_out, load
from training.losses import Predictions, Weights, detection_loss, distribution_focal, generalised_iou
from training.scenes import LABELS, Scene, render
from training.scenes.canvas import Sprite
from training.scenes.examples import EXAMPLES, SIZE, example
from training.scenes.scene import Spot, composed

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes():
    return [render(HELD_OUT_SEED + i, 320) for i in range(40)]


@pytest.fixture(scope="module")
def shipped():
    return load(ROOT / WEIGHTS)


# Scenes


def test_a_scene_is_a_function_of_its_seed():
    np.random.seed(1)
    first = render(7, 160)
    np.random.seed(2)
    again, other = render(7, 160), render(8, 160)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)


def test_labels_and_boxes_are_sane(scenes):
    for scene in scenes:
        assert scene.image.shape == (320, 320, 3)
        assert scene.image.dtype == np.uint8
        assert scene.boxes.shape == (len(scene.labels), 4)
        assert (scene.boxes >= 0).all()
        assert (scene.boxes <= 320).all()
        assert ((scene.boxes[:, 2:] - scene.boxes[:, :2]).max(1, initial=12) >= 12).all()
        assert set(scene.labels) <= set(range(len(LABELS)))


def test_classes_are_balanced_and_some_scenes_are_grey(scenes):
    counts = np.bincount(np.concatenate([s.labels for s in scenes]), minlength=5)
    assert counts.min() > 0.1 * counts.sum()
    grey = sum(bool((s.image.max(2).astype(int) - s.image.min(2) < 12).all()) for s in scenes)
    assert 0.2 < grey / len(scenes) < 0.7


def test_a_label_lies_on_an_object(scenes):
    """The picture changes more across a labelled box's middle than the noise of the ground explains."""
    spread = [s.image[int(b[1]) : int(b[3]), int(b[0]) : int(b[2])].std() for s in scenes for b in s.boxes]
    assert np.mean(np.array(spread) > 6) > 0.97


def test_a_box_encloses_its_object():
    alone = composed(np.random.default_rng(0), _grey_ground(), [Spot(0, 100, 100, 60)], 1.5)
    assert alone.labels.tolist() == [0]
    x0, y0, x1, y1 = alone.boxes[0]
    assert 45 < x1 - x0 <= 62
    assert abs((x0 + x1) / 2 - 100) < 4
    assert abs((y0 + y1) / 2 - 100) < 4


def test_a_mostly_hidden_object_has_no_label():
    ball, larger_in_front = Spot(1, 100, 100, 60), Spot(1, 137, 100, 100)
    both = composed(np.random.default_rng(0), _grey_ground(), [ball, larger_in_front], 1.5)
    apart = composed(np.random.default_rng(0), _grey_ground(), [ball, replace(larger_in_front, x=165)], 1.5)
    assert len(both.labels) == 1
    assert both.boxes[0, 2] - both.boxes[0, 0] > 80
    assert len(apart.labels) == 2


@pytest.mark.parametrize(("difference", "labels"), [(0.02, 0), (0.1, 1)])
def test_a_faint_object_has_no_label(monkeypatch, difference, labels):
    def disc(rng, size, light, elevation):
        return Sprite(np.full((size, size, 3), 0.5 + difference, np.float32), np.ones((size, size), np.float32), 0.0)

    monkeypatch.setattr("training.scenes.scene.DRAWERS", (disc,) * 5)
    scene = composed(np.random.default_rng(3), _grey_ground(), [Spot(0, 100, 100, 40)], 1.5, clean=True)
    assert len(scene.labels) == labels


def _grey_ground():
    return np.full((200, 200, 3), 0.5, np.float32)


def test_examples_show_every_class_in_large():
    scene = example(EXAMPLES[0])
    assert scene.image.shape == (*SIZE, 3)
    assert set(scene.labels) == set(range(5))
    shipped = sorted(p.stem for p in (ROOT / "assets/examples").glob("scene_*.jpg"))
    assert shipped == sorted(e.name for e in EXAMPLES)


# Data


def test_augmentation_moves_boxes_with_the_picture():
    image = np.zeros((320, 320, 3), np.uint8)
    image[100:140, 60:160] = 255
    scene = Scene(image, np.array([[60, 100, 160, 140]], np.float32), np.array([0]))
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(20):
        out = augmented(scene, 224, rng, Augmentation(tone=0.0, grey=0.0))
        if len(out.boxes):
            seen += 1
            rows, columns = np.nonzero(out.image.max(2) > 127)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(out.boxes[0] - found).max() <= 0.75
    assert seen > 8


def test_batches_are_repeatable_and_a_cache_holds_the_same_scenes(tmp_path):
    cache = tmp_path / "scenes.npz"
    fresh = render_many(range(4), 96, cache=cache)
    kept = render_many(range(4), 96, cache=cache)
    assert all(
        np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes) for a, b in zip(fresh, kept, strict=True)
    )
    with pytest.raises(ValueError, match="other seeds"):
        render_many(range(5), 96, cache=cache)
    runs = [list(batches(kept, steps=3, batch=2, size=64, seed=1, how=Augmentation())) for _ in range(2)]
    assert all(torch.equal(a.images, b.images) and torch.equal(a.boxes, b.boxes) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0].images, runs[0][1].images)


# Assignment and loss


def _grid(side=8, stride=8):
    xs = torch.arange(side) * float(stride)
    y, x = torch.meshgrid(xs, xs, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def test_assignment_picks_points_inside_and_asks_the_best_one_for_its_iou():
    points = _grid()
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 40.0], [0.0, 0.0, 0.0, 0.0]]])
    labels = torch.tensor([[2, -1]])
    predicted = torch.cat([points - 10, points + 22], -1)[None]
    # Points outside are the surest of all, to no avail.
    surest_outside = ((points < 8) | (points >= 40)).any(-1)
    scores = torch.where(surest_outside, 0.99, 0.2)[None, :, None].expand(1, 64, 5)
    predicted = torch.where(surest_outside[:, None], boxes[0, 0], predicted)
    found = assign(scores, predicted, points, boxes, labels, top=4)
    inside = (points[found.positive[0]] >= 8) & (points[found.positive[0]] < 40)
    assert found.positive.sum() == 4
    assert inside.all()
    assert set(found.labels[found.positive].tolist()) == {2}
    best = pairwise_iou(boxes, predicted)[0, 0][found.positive[0]].max()
    assert found.quality.max() == pytest.approx(float(best), abs=1e-5)
    assert (found.quality[~found.positive] == 0).all()


def test_a_point_wanted_twice_goes_to_the_object_it_overlaps_best():
    points = torch.tensor([[20.0, 20.0]])
    boxes = torch.tensor([[[0.0, 0.0, 60.0, 60.0], [10.0, 10.0, 30.0, 30.0]]])
    predicted = torch.tensor([[[10.0, 10.0, 31.0, 31.0]]])
    found = assign(torch.full((1, 1, 5), 0.5), predicted, points, boxes, torch.tensor([[0, 3]]))
    assert found.labels.tolist() == [[3]]
    assert found.boxes[0, 0].tolist() == [10, 10, 30, 30]


def test_padding_is_never_assigned():
    points = _grid(4)
    predicted = torch.cat([points - 4, points + 4], -1)[None]
    found = assign(
        torch.ones(1, 16, 5), predicted, points, torch.tensor([[[0.0, 0, 30, 30]] * 3]), torch.full((1, 3), -1)
    )
    assert not found.positive.any()


def test_generalised_iou_of_known_pairs():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 3)
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    assert generalised_iou(a, b).tolist() == pytest.approx([1.0, 1 / 3, -1 / 3], abs=1e-5)


def test_distribution_focal_is_least_at_the_right_mixture():
    bins = torch.zeros(1, 4, 8, requires_grad=True)
    optimiser = torch.optim.Adam([bins], lr=0.2)
    wanted = torch.tensor([[2.25, 0.0, 6.5, 9.0]])
    for _ in range(300):
        optimiser.zero_grad()
        distribution_focal(bins, wanted).sum().backward()
        optimiser.step()
    expected = bins.softmax(-1) @ torch.arange(8.0)
    assert expected[0].tolist() == pytest.approx([2.25, 0.0, 6.5, 6.99], abs=0.06)


def test_the_loss_is_small_where_the_prediction_is_right_and_names_its_parts():
    points, stride = _grid(), 8.0
    boxes, labels = torch.tensor([[[16.0, 16.0, 48.0, 40.0]]]), torch.tensor([[1]])
    distance = torch.cat([points - boxes[0, 0, :2], boxes[0, 0, 2:] - points], -1) / stride
    centre = (distance > 0).all(-1)
    right = torch.nn.functional.one_hot(distance.clamp(0, 7).long(), 8).float()[None] * 30
    logits = torch.full((1, 64, 5), -12.0)
    logits[0, centre, 1] = 12.0
    strides = torch.full((64,), stride)
    good = detection_loss(Predictions(logits, right, points, strides), boxes, labels, Weights())
    bad = detection_loss(Predictions(-logits, right.flip(-1), points, strides), boxes, labels, Weights())
    assert set(good) == {"score", "overlap", "bins", "kind"}
    assert sum(float(v) for v in good.values()) < 0.1
    assert sum(float(v) for v in bad.values()) > 2


def test_the_loss_decodes_boxes_as_the_network_does():
    torch.manual_seed(0)
    model = build("detector", "Ns", num_classes=5)
    images = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        scores, boxes = model(images)
        out = predictions(model, images)
    assert torch.allclose(out.boxes(), boxes, atol=1e-3)
    assert torch.allclose(out.logits.sigmoid(), scores, atol=1e-6)


def test_a_picture_without_objects_has_a_loss_and_a_gradient():
    model = build("detector", "Ns", num_classes=5).train()
    empty = Scene(np.zeros((64, 64, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    batch = collated([empty, empty])
    parts = detection_loss(predictions(model, batch.images), batch.boxes, batch.labels, Weights())
    torch.stack(list(parts.values())).sum().backward()
    assert all(torch.isfinite(v) for v in parts.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


# Training


def test_thirty_steps_reduce_the_loss_and_the_result_loads(tmp_path):
    as_is = Augmentation(scale=(1.0, 1.0), stretch=1.0, flip=0.0, grey=0.0, tone=0.0)
    tiny = Settings(steps=30, warmup=1, batch=2, processes=1, size=96, augmentation=as_is)
    small = [s for s in (render(i, 96) for i in range(12)) if len(s.labels)][:2]
    reports = list(train(small, tiny, report_every=10))
    first, last = (sum(reports[i].losses.values()) for i in (0, -1))
    assert [r.step for r in reports] == [10, 20, 30]
    assert last < 0.4 * first
    path = tmp_path / "new" / "weights.safetensors"
    save(reports[-1].averaged, path, [{"seed": 0, "size": 96}])
    assert load(path).merged


def test_training_repeats_by_seed():
    small = [render(i, 96) for i in range(4)]
    first, again, other = (
        list(train(small, Settings(steps=3, batch=2, processes=1, size=64, seed=seed)))[-1].averaged.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_loss_that_is_no_number_stops_the_training():
    small = [render(i, 128) for i in range(2)]
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        list(train(small, Settings(steps=5, warmup=0, lr=1e9, batch=2, processes=1, size=96)))


# Judging


def test_average_precision_of_a_known_ranking():
    scores, hits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, hits, 2) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(scores, hits, 4) == pytest.approx((1 + 2 / 3) / 4)
    assert np.isnan(average_precision(scores, hits, 0))


def test_every_true_object_is_hit_once():
    truth = Found(np.array([[0.0, 0, 10, 10]]), np.array([0]), np.ones(1))
    twice = Found(np.array([[0.0, 0, 10, 10], [0, 0, 10, 9]]), np.array([0, 0]), np.array([0.5, 0.9]))
    assert matched(twice, truth, 0.5).tolist() == [False, True]
    assert iou_matrix(twice.boxes, truth.boxes)[:, 0].tolist() == pytest.approx([1.0, 0.9])


def test_metrics_tell_locating_from_naming():
    truth = [Found(np.array([[0.0, 0, 10, 10], [20, 20, 40, 40]]), np.array([0, 1]), np.ones(2))]
    assert metrics(truth, truth, 3).map50_95 == 1.0
    swapped = [replace(truth[0], labels=np.array([1, 0]))]
    judged = metrics(swapped, truth, 3)
    assert (judged.map50, judged.agnostic_ap50) == (0.0, 1.0)


# The shipped weights


def test_the_true_boxes_of_the_photograph_are_those_segmentation_finds():
    found, kept = segmented(photograph()), true_boxes()
    assert len(found) == len(kept) == 24
    assert (iou_matrix(found, kept).max(0) > 0.9).all()


def test_the_header_says_what_the_weights_are():
    with safe_open(ROOT / WEIGHTS, "pt") as kept:
        about = kept.metadata()
    assert about["labels"] == '["coin", "ball", "box", "cup", "card"]'
    assert about["provenance"] == "trained on rendered scenes by training/detector.py"
    assert (ROOT / WEIGHTS).stat().st_size < 8_000_000


def test_shipped_weights_find_and_name_held_out_objects(shipped, scenes):
    judged = held_out(shipped, scenes, 320)
    assert judged.map50 >= 0.93
    assert judged.agnostic_ap50 >= 0.94
    assert min(judged.ap50) >= 0.88


@pytest.mark.parametrize("size", [(288, 384), (416, 416), (320, 320)])
def test_shipped_weights_find_the_coins_of_a_real_photograph(shipped, size):
    count = count_coins(shipped, size, [DISPLAY_SCORE])[DISPLAY_SCORE]
    assert count.hits >= 22
    assert count.false <= 1
