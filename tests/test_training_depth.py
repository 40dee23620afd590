"""Ray-cast scenes, the depth losses, and what the shipped preview weights can do."""

import json
import math
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from adapters.metric3d.camera import CameraWish, camera_of
from adapters.metric3d.geometry import CANONICAL_FOCAL_PX
from kit.exif import camera_tags
from training.depth import data
from training.depth.data import HELD_OUT_SEED, Pool, batches, collated, read_chunk, view, write_chunk
from training.depth.evaluate import (
    WEIGHTS,
    depth_score,
    in_precision,
    judge,
    judge_stereo,
    normal_score,
    predict,
    spearman,
)
from training.depth.examples import EXAMPLES, SIZE, example
from training.depth.losses import coarse_terms, depth_terms, gradients, log_error, normal_terms, spread
from training.depth.network import CONFIG, fresh, load, save, size_of, stages_of
from training.depth.scene import Scene, render
from training.depth.solids import Solid, crossings, first_hit, shadowed, surface
from training.depth.stereo import motorcycle
from training.depth.train import Settings, rate, train

ROOT = Path(__file__).parents[1]
UPRIGHT = np.eye(3, dtype=np.float32)
AHEAD = np.array([[0, 0, 1], [0, 1, 1], [0, -0.02, 1]], np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes():
    return [render(HELD_OUT_SEED + i) for i in range(16)]


@pytest.fixture
def shipped():
    return load(ROOT / WEIGHTS)


def solid(shape, centre=(0, 0, 3), half=(1, 1, 1), turn=UPRIGHT):
    return Solid(shape, np.array(centre, np.float32), np.array(half, np.float32), turn, 0)


def flat_scene(depth=2.0, size=(228, 304), focal=250.0):
    image = np.full((*size, 3), 200, np.uint8)
    normal = np.zeros((*size, 3), np.int8)
    normal[..., 0], normal[..., 2] = 76, -101
    return Scene(image, np.full(size, depth, np.float16), normal, focal)


# Geometry


@pytest.mark.parametrize("shape", ["ball", "box", "cylinder"])
def test_the_ray_straight_ahead_meets_a_unit_solid_two_metres_away(shape):
    assert first_hit(solid(shape), AHEAD) == pytest.approx([2, np.inf, 2], abs=2e-3)


def test_a_room_is_met_from_within_and_faces_inwards():
    room = solid("room", (0, 0, 1), (2, 1.5, 4))
    depth = first_hit(room, AHEAD[:2])
    assert depth == pytest.approx([5, 1.5])
    found = surface(room, AHEAD[:2] * depth[:, None])
    assert found.normal == pytest.approx(np.array([[0, 0, -1], [0, -1, 0]]))


def test_a_turned_cylinder_is_met_at_its_cap():
    lying = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float32)
    log = solid("cylinder", (0, 0, 4), (0.5, 2, 0.5), lying)
    assert first_hit(log, AHEAD[:1]) == pytest.approx([2])
    assert surface(log, AHEAD[:1] * 2).normal == pytest.approx(np.array([[0, 0, -1]]))


def test_rays_that_miss_have_no_crossing():
    near, far = crossings(solid("cylinder"), np.zeros(3, np.float32), np.array([[1, 0, 0]], np.float32))
    assert not near[0] < far[0]


def test_a_ball_casts_its_shadow_on_what_is_behind_it():
    ball, light = solid("ball", (0, 0, 0), (0.5, 0.5, 0.5)), np.array([0, -3, 0], np.float32)
    points = np.array([[0, 2, 0], [0.5, 2, 0], [2, 2, 0], [0, -1, 0]], np.float32)
    assert shadowed(ball, points, light - points).tolist() == [True, True, False, False]


# Scenes


def test_a_scene_is_a_function_of_its_seed():
    np.random.seed(1)
    first = render(7, (60, 80))
    np.random.seed(2)
    again, other = render(7, (60, 80)), render(8, (60, 80))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.depth, again.depth)
    assert not np.array_equal(first.depth, other.depth)


def test_labels_are_known_everywhere(scenes):
    for scene in scenes:
        assert scene.image.shape == (228, 304, 3)
        assert np.isfinite(scene.depth).all()
        assert 0.2 < scene.depth.min() < scene.depth.max() <= 60
        assert np.allclose(np.linalg.norm(scene.normal, axis=2), 1, atol=1e-5)


def unprojected(scene):
    height, width = scene.depth.shape
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(x - width / 2) / scene.focal_px, (y - height / 2) / scene.focal_px, np.ones_like(x)], -1)
    return rays * scene.depth[..., None]


def test_normals_are_those_of_the_depth_and_face_the_camera(scenes):
    """A tangent from one pixel to the next, by depth alone, is at right angles to the normal but for edges."""
    for scene in scenes:
        points = unprojected(scene)
        assert ((points * scene.normal).sum(-1) < 1e-3 * scene.depth).mean() > 0.999
        for tangent, normal in (
            (np.diff(points, axis=0), scene.normal[1:]),
            (np.diff(points, axis=1), scene.normal[:, 1:]),
        ):
            lean = (tangent * normal).sum(-1) / np.linalg.norm(tangent, axis=-1)
            assert (np.abs(lean) < 0.05).mean() > 0.85


def test_the_floor_is_at_eye_height(scenes):
    """Pixels whose normal points up lie about 1.45 m below the camera, or on something that stands there."""
    heights = []
    for scene in scenes:
        steep = scene.normal[..., 1] < -0.75
        if steep.mean() > 0.1:
            # The commonest of the steep normals is the level one: of the floor and of what is parallel to it.
            up = np.median(scene.normal[steep], axis=0)
            level = (scene.normal @ (up / np.linalg.norm(up))) > 0.99999
            heights.append(-(unprojected(scene) * scene.normal).sum(-1)[level].min())
    assert len(heights) > 7
    assert 1.15 < np.median(heights) < 1.75
    assert max(heights) < 1.75


def test_pictures_vary_in_light_and_view(scenes):
    assert np.std([s.image.mean() for s in scenes]) > 10
    assert len({round(s.focal_px) for s in scenes}) > 12
    assert max(s.focal_px for s in scenes) / min(s.focal_px for s in scenes) > 1.5
    assert min(s.image.std() for s in scenes) > 8


# Data


def test_a_view_of_the_whole_size_only_makes_depth_canonical():
    scene, rng = flat_scene(), np.random.default_rng(0)
    for _ in range(10):
        seen = view(scene, (228, 304), rng)
        assert np.allclose(seen.depth[seen.depth > 0], 2 * CANONICAL_FOCAL_PX / 250)


def test_scaling_a_picture_scales_canonical_depth_the_other_way():
    rng = np.random.default_rng(0)
    factors = np.array(
        [view(flat_scene(), (168, 224), rng, zoom=1.35).depth.max() / (2 * CANONICAL_FOCAL_PX / 250) for _ in range(60)]
    )
    whole = 304 / 224
    assert factors.max() == pytest.approx(whole, rel=1e-5)
    assert whole / 1.35 - 1e-5 <= factors.min() < 0.85 * whole
    assert 0.3 < np.mean(np.isclose(factors, whole)) < 0.8


def test_mirrors_turn_normals_and_borders_are_unknown():
    rng = np.random.default_rng(3)
    signs, shares = set(), []
    for _ in range(40):
        batch = collated([view(flat_scene(), (112, 140), rng)])
        known = batch.known[0, 0]
        shares.append(known.float().mean().item())
        signs |= set(torch.sign(batch.normals[0, 0][known]).unique().tolist())
        assert (batch.depth[0, 0][~known] == 0).all()
        # The border's colour is the mean the adapter subtracts.
        assert (batch.images[0][:, ~known].abs() < 0.02).all()
    assert signs == {-1.0, 1.0}
    assert 5 < sum(share < 1 for share in shares) < 25


def test_scenes_survive_the_disk_and_are_shared_among_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 2)
    for number in range(3):
        write_chunk(tmp_path, number)
    kept, made = read_chunk(tmp_path / "0001.npz"), render(2)
    assert np.array_equal(kept[0].image, made.image)
    assert np.allclose(kept[0].depth, made.depth, rtol=1e-3)
    assert np.allclose(kept[0].normal / data.NORMAL_STEPS, made.normal, atol=5e-3)
    assert [len(Pool(tmp_path, rank=rank, of=2).scenes) for rank in (0, 1)] == [4, 2]
    pool = Pool(tmp_path)
    write_chunk(tmp_path, 3)
    pool.refresh()
    assert len(pool.scenes) == 8
    with pytest.raises(FileNotFoundError, match=r"training\.depth\.data"):
        Pool(tmp_path / "none")


# Losses


def test_the_truth_costs_nothing_and_a_wrong_scale_only_where_scale_counts():
    truth = torch.rand(2, 1, 28, 28) * 20 + 1
    truth[:, :, :3] = 0
    known = truth > 0
    right = depth_terms(truth.clamp_min(0.1), torch.ones_like(truth), truth)
    assert max(float(v) for v in right.values()) < 1e-3
    error = log_error(2 * truth, truth)
    assert error[known].tolist() == pytest.approx([math.log(2)] * int(known.sum()), abs=1e-5)
    assert (error[~known] == 0).all()
    assert float(spread(error, known)) < 2e-3
    assert float(gradients(error, known)) < 1e-6
    ramp = torch.linspace(0, 1, 28).expand(2, 1, 28, 28) * known
    assert float(gradients(ramp, known)) > 0.02


def test_normals_cost_their_angle_and_kappa_should_fall_with_it():
    truth = torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    known = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    aside = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)

    def terms(direction, kappa):
        return normal_terms(torch.cat([direction, torch.full((1, 1, 4, 4), kappa)], 1), truth, known)

    assert float(terms(truth, 5.0)["normal"]) == pytest.approx(0, abs=1e-6)
    assert float(terms(aside, 5.0)["normal"]) == pytest.approx(1)
    assert terms(truth, 20.0)["kappa"] < terms(truth, 1.0)["kappa"]
    assert terms(aside, 20.0)["kappa"] > terms(aside, 1.0)["kappa"]


def test_the_first_guess_is_judged_at_its_own_size():
    truth, normals = torch.full((1, 1, 28, 28), 8.0), torch.zeros(1, 3, 28, 28)
    normals[:, 2] = -1
    terms = coarse_terms(torch.full((1, 1, 7, 7), 8.0), normals[..., ::4, ::4], truth, normals)
    assert [float(v) for v in terms.values()] == pytest.approx([0, 0])
    assert float(coarse_terms(torch.full((1, 1, 7, 7), 4.0), normals[..., ::4, ::4], truth, normals)["first_log"]) > 0.3


# Training


def test_training_learns_a_batch_and_its_file_gives_the_same_network(tmp_path, scenes):
    stored = [replace(s, normal=np.rint(s.normal * data.NORMAL_STEPS).astype(np.int8)) for s in scenes[:2]]
    rng = np.random.default_rng(0)
    batch = collated([view(s, (84, 112), rng) for s in stored])
    settings = Settings(steps=14, warmup=2, lr=1e-3, processes=1)
    reports = list(train(islice(iter(lambda: batch, None), 14), settings, report_every=2))
    first, last = reports[0].losses, reports[-1].losses
    assert reports[-1].ended
    assert last["log"] + last["first_log"] < 0.9 * (first["log"] + first["first_log"])
    assert last["first_normal"] < 0.9 * first["first_normal"]

    path = tmp_path / "weights.safetensors"
    save(reports[-1].averaged, path, [asdict(settings)])
    again = load(path)
    assert stages_of(path) == [asdict(settings)]
    with torch.inference_mode():
        kept, expected = again(batch.images).depth, reports[-1].averaged(batch.images).depth
    assert torch.allclose(kept, expected, rtol=0.05)


def test_the_rate_rises_falls_and_ends_at_zero():
    settings = Settings(lr=1.0, warmup=10)
    assert rate(0.0, 0, settings) == pytest.approx(0.1)
    assert rate(0.01, 20, settings) > 0.99
    assert rate(1.0, 100, settings) == pytest.approx(0)


def test_batches_go_on_past_the_end_of_the_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 3)
    write_chunk(tmp_path, 0)
    seen = list(islice(batches(Pool(tmp_path), batch=2, size=(84, 112), seed=0), 4))
    assert all(b.images.shape == (2, 3, 84, 112) for b in seen)
    assert not torch.equal(seen[0].images, seen[3].images)


def test_an_untrained_refinement_changes_nothing():
    model = fresh(0)
    states = []
    model.depth_model.decoder.update_block.register_forward_hook(lambda _m, _i, output: states.append(output[1]))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 56, 56))
    assert len(states) == CONFIG["decoder"]["iters"]
    assert all((change == 0).all() for change in states)


# Scores


def test_scores_are_what_their_names_say():
    truth = np.array([1.0, 2.0, 4.0, 8.0], np.float32)
    doubled = depth_score(2 * truth, truth)
    assert doubled.abs_rel == pytest.approx(1)
    assert doubled.delta1 == 0
    assert doubled.scaled_abs_rel == pytest.approx(0, abs=1e-6)
    assert doubled.rank == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([9.0, 4, 1])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1, 2]), np.array([5.0, 6, 7])) == pytest.approx(math.sqrt(3) / 2)
    angle = normal_score(np.array([[0, 0, -2.0], [0, 1, 0]]), np.array([[0, 0, -1.0], [0, 0, -1]]))
    assert (angle.mean, angle.median, angle.within) == pytest.approx((45, 45, 0.5))


# Shipped


def test_the_shipped_file_says_what_it_is():
    path = ROOT / WEIGHTS
    assert path.stat().st_size < 10_000_000
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["provenance"] == "trained on ray-cast scenes by training/depth"
    assert header["canonical_focal"] == "1000"
    assert size_of(path) == (112, 140)
    config = {part: dict(values) for part, values in CONFIG.items()}
    config["decoder"]["iters"] = 1
    assert json.loads(header["config"]) == config


def test_the_shipped_weights_measure_unseen_scenes(scenes, shipped):
    depth, normal = judge(shipped, scenes, size_of(ROOT / WEIGHTS))
    assert depth.abs_rel < 0.5
    assert depth.delta1 > 0.35
    assert depth.rank > 0.6
    assert normal.mean < 34


def test_the_shipped_weights_measure_alike_in_bf16(scenes, shipped):
    size = size_of(ROOT / WEIGHTS)
    narrow = in_precision(load(ROOT / WEIGHTS), "bf16, decoder fp32")
    pairs = [[predict(m, s.image, s.focal_px, size)[0] for m in (shipped, narrow)] for s in scenes[:6]]
    assert np.mean([np.abs(b - a) / a for a, b in pairs]) < 0.01


def test_the_shipped_weights_order_a_real_photograph(shipped):
    found = judge_stereo(shipped, motorcycle(), size_of(ROOT / WEIGHTS))
    assert found.rank > 0.4
    assert found.abs_rel < 0.7


def test_the_photograph_has_its_calibrated_depth():
    pair = motorcycle()
    assert pair.image.shape == (500, 741, 3)
    assert np.nanmin(pair.depth) == pytest.approx(2.11, abs=0.01)
    assert 0.9 < np.isfinite(pair.depth).mean() < 0.95


def test_examples_name_the_camera_that_took_them():
    files = sorted((ROOT / "assets/examples").glob("depth_*.jpg"))
    assert [f.stem for f in files] == sorted(EXAMPLES)
    small = (SIZE[0] // 8, SIZE[1] // 8)
    for file in files:
        camera = camera_of(SIZE, CameraWish(), camera_tags(file))
        assert camera.source.startswith("exif")
        assert camera.focal_px == pytest.approx(8 * example(file.stem, small).focal_px, rel=1e-3)
