"""What the detector's tab does without a second forward pass, and with a camera, a video and weights of one's own."""

import asyncio
import csv
import json
import threading
import time
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from adapters import adapter
from adapters.damo_yolo import files, video, view
from adapters.damo_yolo.camera_part import LIMIT_SECONDS, PATIENCE, LiveRequest, Pulse, see
from adapters.damo_yolo.detecting import detect, for_waiting
from adapters.damo_yolo.own_weights import OwnWeights, look_into, names_for, wished
from adapters.damo_yolo.pipeline import DetectRequest
from adapters.damo_yolo.postprocess import Suppression, candidates, detections
from adapters.damo_yolo.tab import DetectTab
from adapters.damo_yolo.video_part import VideoDone, run_video
from adapters.damo_yolo.view import Filter
from kit.exports import OutputError
from kit.images import open_picture
from kit.parts.context import PageContext
from kit.running import Asked
from kit.video import ClipWriter, probe_clip
from loader.errors import InputError, WeightsError
from loader.host import load_host
from loader.outcome import Cancel, Step
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with
from tests.onnx_bytes import classifier

SPEC = adapter("damo_yolo")
COINS = ROOT / "assets" / "examples" / "coins.png"
WOOD = ROOT / "assets" / "examples" / "scene_wood.jpg"
PREVIEW = ROOT / "assets" / "weights" / "damo_yolo_preview_ns.safetensors"
WISHES = Wishes(variant="preview", size=(320, 320), dtype="fp32")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shown(engine):
    *_, last = detect(engine, [WOOD, COINS], Suppression(view.SCORE_FLOOR), Asked(WISHES), keep_candidates=True)
    return last.shown


def inside(make):
    async def made():
        with gr.Blocks(analytics_enabled=False):
            return make()

    return asyncio.run(made())


# --- filters ------------------------------------------------------------------------------------------------------


def test_filters_give_what_a_run_with_these_settings_would(shown):
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(400, 2, generator=generator) * 300
    boxes = torch.cat([corners, corners + 20 + torch.rand(400, 2, generator=generator) * 120], 1)
    scores = torch.rand(400, 3, generator=generator) ** 2
    sizes = {"network_size": (416, 416), "picture_size": (300, 500)}
    proposed = candidates(scores, boxes, settings=Suppression(0.05), **sizes)
    seen = replace(shown.shots[0].seen, labels=("a", "b", "c"), candidates=proposed)
    counts = set()
    for settings in (Suppression(0.05, 0.7), Suppression(0.3, 0.2), Suppression(0.5, 1.0), Suppression(0.6, 0.45)):
        expected = detections(scores, boxes, labels=("a", "b", "c"), settings=settings, **sizes)
        passing = Filter(settings.score_threshold, iou=settings.iou_threshold)
        assert passing.of(seen).detections == expected
        named = replace(passing, classes=("b",)).of(seen).detections
        only = scores * torch.tensor([0.0, 1.0, 0.0])
        assert named == detections(only, boxes, labels=("a", "b", "c"), settings=settings, **sizes)
        counts.add(len(expected))
    assert len(counts) == 4


def test_no_filter_runs_the_network_and_what_is_kept_is_bounded(engine, shown, monkeypatch):
    calls = []
    opened = engine._opened[SPEC.name]
    called = opened.call
    monkeypatch.setattr(opened, "call", lambda *a, **k: calls.append(a) or called(*a, **k))
    boxes = {len(Filter(t, iou=i).of(shown.shots[0].seen).detections) for t in (0.05, 0.3, 0.8) for i in (0.3, 0.7, 1)}
    assert len(boxes) > 4
    assert calls == []
    *_, again = detect(engine, [COINS], Suppression(), Asked(WISHES))
    assert len(calls) == 1, "the count counts"
    assert again.shown.shots[0].seen.candidates is None
    # A threshold of zero makes candidates of everything: the bound holds all the same.
    everything = candidates(
        torch.rand(8400, 80),
        torch.rand(8400, 4),
        network_size=(640, 640),
        picture_size=(640, 640),
        settings=Suppression(0.0),
    )
    assert everything.bytes == 4000 * (16 + 4 + 4)
    assert max(shot.seen.candidates.bytes for shot in shown.shots) <= everything.bytes


def test_files_have_what_is_shown_and_crops_are_cut_at_full_size(shown, tmp_path):
    passing = Filter(0.6, ("coin",), iou=0.4)
    seen = [passing.of(shot.seen) for shot in shown.shots]
    count = sum(len(s.detections) for s in seen)
    assert count > 5
    with files.save_csv(shown, passing, tmp_path).open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == count
    coco = json.loads(files.save_coco(shown, passing, tmp_path).read_text(encoding="utf-8"))
    assert len(coco["annotations"]) == count
    assert coco["info"]["iou"] == 0.4
    assert coco["info"]["classes"] == ["coin"]
    with zipfile.ZipFile(files.save_crops(shown, passing, tmp_path)) as archive:
        assert len(archive.namelist()) == count
    found = seen[1].detections[2]
    with Image.open(files.save_crop(shown, 1, 2, passing, tmp_path)) as image:
        left, top, right, bottom = found.box
        assert image.size == pytest.approx((right - left, bottom - top), abs=2)
        assert json.loads(image.info["anyhost"])["label"] == "coin"
    assert len(view.cuts(shown, 1, seen[1])) == min(len(seen[1].detections), view.MAX_CUTS)
    with pytest.raises(InputError, match="none of number 501"):
        files.save_crop(shown, 1, 500, passing, tmp_path)


def test_what_was_measured_says_how_many_streams_it_suffices_for():
    assert "keeps up with 3 streams of 30 frames a second" in view.streams_markup(1.0, 100, "en")
    assert "每 10 帧处理一帧" in view.streams_markup(10.0, 30, "zh")


# --- batches ------------------------------------------------------------------------------------------------------


def test_an_accelerator_gets_as_many_at_once_as_wait_and_fit(tmp_path):
    card = engine_on(load_host("t4-16g"), tmp_path / "card")
    cpu = engine_on(host_with(), tmp_path / "cpu")
    try:
        for waiting, batch in ((1, None), (5, 5), (900, 16)):
            made = for_waiting(card, Wishes(), waiting)
            assert made.batch == batch
            assert card.plan(SPEC, made).batch == (batch or 1)
        assert for_waiting(card, Wishes(batch=2), 900).batch == 2, "the user said how many"
        assert for_waiting(cpu, Wishes(), 900).batch is None
        # What does not fit is halved by the plan, not refused.
        host = load_host("t4-16g")
        small = replace(host, accelerators=(replace(host.accelerators[0], free_bytes=700 * 2**20),))
        tight = engine_on(small, tmp_path / "tight")
        plan = tight.plan(SPEC, for_waiting(tight, Wishes(variant="L"), 900))
        assert plan.fits
        assert 1 <= plan.batch < 16
        assert any(d.rule == "batch_for_memory" for d in plan.decisions)
    finally:
        card.close()
        cpu.close()


# --- own weights --------------------------------------------------------------------------------------------------


def test_own_weights_say_what_they_are_before_they_run(tmp_path):
    found = look_into(PREVIEW)
    assert (found.variant, found.classes, found.names) == ("Ns", 5, ("coin", "ball", "box", "cup", "card"))
    assert wished(Wishes(), found).variant == "Ns"
    assert wished(Wishes(variant="T"), found).variant == "T", "the user said which"
    assert wished(WISHES, None) is WISHES
    assert names_for(found, "a, b\nc") == ("a", "b", "c")
    assert names_for(None, "a, b") == ()
    (tmp_path / "wrong.onnx").write_bytes(classifier())
    with pytest.raises(WeightsError, match="is not a detector this program runs"):
        look_into(tmp_path / "wrong.onnx")


def test_names_given_for_own_classes_have_to_be_as_many(engine):
    pictures = (open_picture(COINS),)
    wishes = replace(WISHES, variant="Ns")
    *_, result = engine.run(SPEC, DetectRequest(pictures, names=("a", "b", "c", "d", "e")), wishes, checkpoint=PREVIEW)
    assert {d.label for d in result.outputs[0].detections} <= set("abcde")
    with pytest.raises(InputError, match=r"3 class names were given and .* has 5 classes"):
        list(engine.run(SPEC, DetectRequest(pictures, names=("a", "b", "c")), wishes, checkpoint=PREVIEW))


def request_from(address, **headers):
    return SimpleNamespace(client=SimpleNamespace(host=address), headers=headers)


def test_a_path_is_read_only_for_whoever_sits_at_the_machine(engine):
    part = inside(lambda: OwnWeights(PageContext(engine, admin="local")))
    here = request_from("127.0.0.1", host="127.0.0.1:7860")
    found, line = part._typed(str(PREVIEW), None, here)
    assert found.variant == "Ns"
    assert "DAMO-YOLO Ns with 5 classes" in line
    for stranger in (request_from("10.0.0.7"), request_from("127.0.0.1", **{"x-forwarded-for": "10.0.0.7"})):
        found, line = part._typed(str(PREVIEW), None, stranger)
        assert isinstance(found, InputError)
        assert "upload the file" in line
        with pytest.raises(InputError, match="upload the file"):
            part.read(found)


# --- videos -------------------------------------------------------------------------------------------------------


def clip(path, frames):
    rgb = np.asarray(Image.open(COINS).convert("RGB").resize((192, 160)))
    with ClipWriter(path, fps=10) as writer:
        for index in range(frames):
            writer.write(np.roll(rgb, 8 * index, axis=1), index / 10)
    return path


def test_a_video_that_is_stopped_is_an_outcome_with_what_was_done(engine, tmp_path):
    cancel = Cancel()
    values = [str(clip(tmp_path / "a.mp4", 60)), 0.5, 0.7, 1, ["coin"]]
    work = run_video(engine, values, tmp_path / "out", Asked(WISHES, cancel))
    for item in work:
        if isinstance(item, Step) and item.stage == "detecting" and item.index >= 3:
            break
    cancel.request()
    *_, done = work
    assert isinstance(done, VideoDone)
    assert done.result is None
    assert 3 <= done.seen.frames < 60
    assert done.seen.most["coin"] > 5
    assert done.seen.size == (160, 192)
    assert probe_clip(done.seen.clip).frames == done.seen.frames
    assert len(video.video_summary(done.seen)) == 1, "a part tells nothing of speed"
    table = video.write_video_csv(done.seen.data, tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == ",".join(video.VIDEO_COLUMNS)
    assert {line.split(",")[0] for line in table[1:]} == {str(i) for i in range(done.seen.frames)}


def test_a_failure_half_way_shows_the_part_and_then_the_failure(engine, tmp_path, monkeypatch):
    written = []

    class Filling(ClipWriter):
        def write(self, rgb, seconds):
            if len(written) == 4:
                raise OutputError("the disk is full")
            written.append(seconds)
            super().write(rgb, seconds)

    monkeypatch.setattr(video, "ClipWriter", Filling)
    values = [str(clip(tmp_path / "a.mp4", 9)), 0.5, 0.7, 1, []]
    work = run_video(engine, values, tmp_path / "out", Asked(WISHES))
    part = next(item for item in work if isinstance(item, VideoDone))
    assert part.seen.frames == probe_clip(part.seen.clip).frames == 4
    with pytest.raises(OutputError, match="disk is full"):
        next(work)


@pytest.mark.parametrize("kind", ["empty", "torn", "garbled"])
def test_videos_that_are_broken_are_refused_or_taken_as_far_as_they_go(engine, tmp_path, kind):
    path = clip(tmp_path / "a.mp4", 30)
    data = path.read_bytes()
    if kind == "empty":
        # A header that announces a track, and no frame of it.
        with ClipWriter(tmp_path / "one.mp4") as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8), 0.0)
        whole = (tmp_path / "one.mp4").read_bytes()
        path.write_bytes(whole[: whole.index(b"mdat") + 4])
    elif kind == "torn":
        path.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) * 2 // 3
        path.write_bytes(data[:middle] + bytes(len(data) - middle))
    values = [str(path), 0.5, 0.7, 1, []]
    work = run_video(engine, values, tmp_path / "out", Asked(WISHES))
    if kind == "empty":
        with pytest.raises(InputError, match=r"a\.mp4 .*(holds no frame|is not a video|no picture track|damaged)"):
            list(work)
        return
    *_, done = work
    assert 0 < done.seen.frames <= 30
    assert probe_clip(done.seen.clip).frames == done.seen.frames
    if done.seen.frames < 28:
        assert "a.mp4" in done.seen.problem


def test_a_path_of_this_machine_is_in_no_words_about_a_broken_video(tmp_path):
    bad = tmp_path / "text.mp4"
    bad.write_text("no video at all")
    with pytest.raises(InputError) as caught:
        probe_clip(bad)
    assert str(tmp_path) not in str(caught.value)
    assert "text.mp4 is not a video" in str(caught.value)


# --- the camera ---------------------------------------------------------------------------------------------------


def test_a_frame_holds_the_lane_only_while_it_is_computed(engine):
    rgb = np.asarray(Image.open(COINS).convert("RGB"))
    result = see(engine, rgb, Suppression(0.5), Asked(WISHES))
    assert len(result.outputs[0].detections) > 3
    # Another request gets in between two frames, and a frame that comes during it gives way after a while.
    other = engine.run(SPEC, DetectRequest((open_picture(COINS),) * 3), WISHES)
    next(item for item in other if isinstance(item, Step) and item.stage == "detecting")
    waited, began = [], time.monotonic()
    thread = threading.Thread(target=lambda: waited.append(see(engine, rgb, Suppression(0.5), Asked(WISHES))))
    thread.start()
    thread.join(PATIENCE * 5 + 5)
    assert waited == [None]
    assert time.monotonic() - began >= PATIENCE
    *_, last = other
    assert len(last.outputs) == 3
    assert see(engine, rgb, Suppression(0.5), Asked(WISHES)) is not None


def test_frames_teach_nothing_and_fill_no_log(tmp_path):
    engine = engine_on(host_with(), tmp_path)
    rgb = np.asarray(Image.open(COINS).convert("RGB"))
    assert see(engine, rgb, Suppression(0.5), Asked(WISHES)) is not None
    assert not (tmp_path / "runs.log").exists()
    assert LiveRequest.teaches is False
    *_, result = engine.run(SPEC, DetectRequest((open_picture(COINS),)), WISHES)
    assert result.outputs
    assert (tmp_path / "runs.log").read_text().count(" damo_yolo ") == 1


def test_the_pulse_counts_frames_and_ends_after_its_time():
    pulse = Pulse().at(100.0)
    for index in range(1, 41):
        pulse = pulse.beat(100.0 + index / 8, 0.05)
    assert pulse.rate == pytest.approx(8)
    assert len(pulse.ends) == 20
    assert not pulse.over(100.0 + LIMIT_SECONDS)
    assert pulse.over(100.1 + LIMIT_SECONDS)
    assert pulse.at(104.0).began == 100.0
    assert pulse.at(200.0).began == 200.0, "who comes back later begins anew"


@pytest.fixture(scope="module")
def tab(engine):
    def make():
        with gr.Tabs() as around, gr.Tab("DAMO-YOLO", id="damo_yolo"):
            built = DetectTab(PageContext(engine))
            built.build()
        built.around = around
        return built

    return inside(make)


def frame(tab, rgb, pulse=None):
    request = SimpleNamespace(session_hash="visitor")
    panel = dict(zip(tab.panel.names, tab.panel.defaults, strict=True)) | {"variant": "preview", "size": "320x320"}
    panel["dtype"] = "fp32"
    return tab._frame(request, rgb, pulse, 0.5, None, "", *panel.values())


def test_a_frame_comes_back_with_boxes_and_rates_until_time_is_up(tab):
    rgb = np.asarray(Image.open(COINS).convert("RGB"))
    pulse, _, drawn, words, *camera = frame(tab, rgb)
    assert drawn.shape == rgb.shape
    assert not np.array_equal(drawn, rgb)
    assert "pictures a second" in words
    assert "coin" in words
    assert camera == [gr.skip()] * 3
    *_, drawn, words, picture, again, away = frame(tab, rgb, replace(pulse, began=time.monotonic() - 1e4))
    assert "time of this camera is up" in words
    assert (picture["visible"], again["visible"], away) == (False, True, True)


def test_leaving_ends_the_camera_and_an_untouched_one_is_left_alone(tab):
    gone, skip = {"visible": False, "__type__": "update"}, gr.skip()
    elsewhere, back = (SimpleNamespace(value=title) for title in ("Metric3D", "DAMO-YOLO"))
    assert tab._left("camera", False, elsewhere) == [gone, gone, True]
    assert tab._left("camera", True, back)[0]["visible"] is True
    assert tab._left("pictures", False, elsewhere) == [skip] * 3
    assert tab._turned_to("camera", "pictures", False, None, None)[1:4] == [skip] * 3
    kind, *camera, pictures, clip_box, live = tab._turned_to("pictures", "camera", False, "something", None)
    assert (kind, camera) == ("pictures", [gone, gone, True])
    assert [box["visible"] for box in (pictures, clip_box, live)] == [True, False, False]
