"""Detection through a video: boxes at their own times, flat memory; Stop and broken files keep what was done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from adapters import adapter
from adapters.damo_yolo import job, video
from adapters.damo_yolo.exports import PREVIEW_NOTE
from adapters.damo_yolo.video import VideoSeen, is_video, read_data, video_record, video_summary
from kit.exports import OutputError
from kit.images import open_picture
from kit.video import ClipWriter, probe_clip, read_frames
from loader.errors import Cancelled, InputError
from loader.outcome import Cancel, Result, Step
from loader.wishes import Wishes
from tests.machines import ROOT, engine_on, host_with

SPEC = adapter("damo_yolo")
WISHES = Wishes(variant="preview", size=(320, 320), dtype="fp32")
OPTIONS = {name: default for name, (_, default, _) in job.OPTIONS.items()}
HEIGHT, WIDTH, FPS = 160, 192, 10


@pytest.fixture(scope="module")
def coins():
    """A part of a photograph, small, with about eight coins."""
    rgb = open_picture(ROOT / "assets" / "examples" / "coins.png").rgb
    return cv2.resize(rgb, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


def clip(path: Path, rgb, count: int, times=None) -> Path:
    """The picture, shifted by 8 pixels a frame."""
    with ClipWriter(path, fps=FPS) as writer:
        for i in range(count):
            writer.write(np.roll(rgb, 8 * i, axis=1), times[i] if times else i / FPS)
    return path


def run(engine, path, out, wishes=WISHES, **options) -> tuple[VideoSeen, list[Step]]:
    asked = job.request([path], OPTIONS | {"out": out} | options)
    *steps, result = engine.run(SPEC, asked, wishes)
    assert isinstance(result, Result)
    (seen,) = result.outputs
    return seen, [s for s in steps if s.stage == "detecting"]


def data_of(seen):
    return read_data(seen.data.read_text(encoding="utf-8").splitlines())


def test_every_frame_is_detected_drawn_and_recorded(engine, coins, tmp_path):
    path = clip(tmp_path / "coins clip.mp4", coins, 6)
    seen, steps = run(engine, path, tmp_path / "out")
    assert (seen.frames, seen.problem) == (6, "")
    assert seen.most["coin"] >= 10
    assert seen.clip.name == "coins_clip-detections.mp4"
    head, frames, end = data_of(seen)
    assert head["settings"]["weights"] == PREVIEW_NOTE
    assert head["size"] == [HEIGHT, WIDTH]
    assert [f["frame"] for f in frames] == [0, 1, 2, 3, 4, 5]
    assert [f["seconds"] for f in frames] == pytest.approx([i / FPS for i in range(6)], abs=1e-3)
    assert all(len(f["detections"]) >= 10 for f in frames)
    assert end == {"frames": 6, "problem": ""}
    assert [(s.index, s.total) for s in steps] == [(i, 6) for i in range(1, 7)]
    assert steps[-1].seconds_left == 0
    assert 0 < steps[0].seconds_left < 60
    # What is drawn is on the frame it was found in: boxes change the pixels along their edges.
    drawn = list(read_frames(seen.clip))
    assert len(drawn) == 6
    for frame, before, record in zip(drawn, read_frames(path), frames, strict=True):
        left, top, right, _ = (round(edge) for edge in record["detections"][0]["box"])
        edge = slice(left + 4, right - 4)
        changed = np.abs(frame.rgb[top, edge].astype(int) - before.rgb[top, edge]).mean()
        assert changed > 25
    with av.open(str(seen.clip)) as made:
        assert PREVIEW_NOTE in made.metadata["comment"]


def test_the_boxes_follow_the_objects(engine, coins, tmp_path):
    """The picture moves by 8 pixels a frame, so its boxes do."""
    seen, _ = run(engine, clip(tmp_path / "a.mp4", coins, 3), tmp_path / "out")
    _, frames, _ = data_of(seen)
    first = [d["box"] for d in frames[0]["detections"] if d["box"][0] > 20 and d["box"][2] < WIDTH - 40]
    assert len(first) >= 5
    for box in first:
        moved = [box[0] + 16, box[1], box[2] + 16, box[3]]
        nearest = min(np.abs(np.subtract(moved, d["box"])).max() for d in frames[2]["detections"])
        assert nearest < 4


def test_every_nth_frame_keeps_its_number_and_time(engine, coins, tmp_path):
    seen, steps = run(engine, clip(tmp_path / "a.mp4", coins, 8), tmp_path / "out", every=3)
    _, frames, _ = data_of(seen)
    assert [f["frame"] for f in frames] == [0, 3, 6]
    assert [f["seconds"] for f in frames] == pytest.approx([0, 0.3, 0.6], abs=1e-3)
    assert [round(f.seconds, 2) for f in read_frames(seen.clip)] == [0, 0.3, 0.6]
    assert steps[-1].total == 3


def test_frames_run_in_batches_and_never_more_than_one_batch_is_held(engine, coins, tmp_path, monkeypatch):
    given = []

    def counted(path, **kwargs):
        for frame in read_frames(path, **kwargs):
            given.append(frame.index)
            yield frame

    monkeypatch.setattr(video, "read_frames", counted)
    path = clip(tmp_path / "a.mp4", coins, 7)
    asked = job.request([path], OPTIONS | {"out": tmp_path / "out"})
    done = []
    for item in engine.run(SPEC, asked, Wishes(variant="preview", size=(320, 320), dtype="fp32", batch=3)):
        if isinstance(item, Step) and item.stage == "detecting":
            done.append((item.index, len(given)))
    assert done == [(3, 3), (6, 6), (7, 7)]


def test_a_varying_frame_rate_stays_as_it_is(engine, coins, tmp_path):
    times = [0.0, 0.1, 0.5, 0.55, 1.3]
    seen, _ = run(engine, clip(tmp_path / "a.mp4", coins, 5, times), tmp_path / "out")
    _, frames, _ = data_of(seen)
    assert [f["seconds"] for f in frames] == pytest.approx(times, abs=2e-3)
    assert [f.seconds for f in read_frames(seen.clip)] == pytest.approx(times, abs=2e-3)


def test_stop_keeps_a_playable_clip_of_what_was_done(engine, coins, tmp_path):
    asked = job.request([clip(tmp_path / "a.mp4", coins, 30)], OPTIONS | {"out": tmp_path / "out"})
    cancel = Cancel()
    detecting = (s for s in engine.run(SPEC, asked, WISHES, cancel=cancel) if s.stage == "detecting")
    assert [next(detecting).index for _ in range(4)] == [1, 2, 3, 4]
    cancel.request()
    with pytest.raises(Cancelled):
        next(detecting)
    assert not engine._lane.locked()
    assert probe_clip(tmp_path / "out" / "a-detections.mp4").frames == 4
    lines = (tmp_path / "out" / "a-detections.jsonl").read_text().splitlines()
    _, frames, end = read_data(lines)
    assert len(frames) == 4
    assert end is None
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_stop_before_the_first_frame_leaves_nothing(engine, coins, tmp_path):
    asked = job.request([clip(tmp_path / "a.mp4", coins, 3)], OPTIONS | {"out": tmp_path / "out"})
    work = asked.work(_Parts(engine))
    next(work)
    work.close()
    assert list((tmp_path / "out").iterdir()) == []


class _Parts:
    """What a request needs of loaded parts before its first answer."""

    def __init__(self, engine) -> None:
        self.plan, self.checkpoint, self.files = engine.plan(SPEC, WISHES), None, {}


def test_a_clip_cut_short_gives_what_could_be_read_and_says_so(engine, coins, tmp_path):
    path = clip(tmp_path / "a.mp4", coins, 30)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    seen, _ = run(engine, path, tmp_path / "out")
    assert 3 <= seen.frames < 30
    assert "a.mp4" in seen.problem
    _, frames, end = data_of(seen)
    assert len(frames) == seen.frames
    assert end == {"frames": seen.frames, "problem": seen.problem}
    assert len(list(read_frames(seen.clip))) == seen.frames
    assert any(seen.problem in line for line in video_summary(seen))
    assert video_record(seen)["problem"] == seen.problem


def test_a_clip_that_changes_its_size_is_taken_up_to_there(engine, coins, tmp_path):
    streams = []
    for number, scale in enumerate((1, 2)):
        part = tmp_path / f"{number}.ts"
        with av.open(str(part), "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = WIDTH * scale, HEIGHT * scale, "yuv420p"
            for _ in range(4):
                rgb = cv2.resize(coins, (WIDTH * scale, HEIGHT * scale))
                for packet in stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
        streams.append(part.read_bytes())
    path = tmp_path / "grows.ts"
    path.write_bytes(b"".join(streams))
    seen, _ = run(engine, path, tmp_path / "out")
    assert seen.frames == 4
    assert "changes its size at frame 5" in seen.problem


def test_a_disk_that_fills_up_keeps_what_was_written(engine, coins, tmp_path, monkeypatch):
    wrote = []

    class Filling(ClipWriter):
        def write(self, rgb, seconds):
            if len(wrote) == 2:
                raise OutputError("the disk is full")
            wrote.append(seconds)
            super().write(rgb, seconds)

    monkeypatch.setattr(video, "ClipWriter", Filling)
    with pytest.raises(OutputError, match="disk is full"):
        run(engine, clip(tmp_path / "a.mp4", coins, 5), tmp_path / "out")
    assert len(list(read_frames(tmp_path / "out" / "a-detections.mp4"))) == 2
    assert not engine._lane.locked()


def test_nothing_is_overwritten(engine, coins, tmp_path):
    path = clip(tmp_path / "a.mp4", coins, 2)
    files = {run(engine, path, tmp_path / "out")[0].clip.name for _ in range(2)}
    assert files == {"a-detections.mp4", "a-detections-2.mp4"}


def test_only_the_wanted_classes_are_in_a_video(engine, coins, tmp_path):
    seen, _ = run(engine, clip(tmp_path / "a.mp4", coins, 2), tmp_path / "out", classes="card")
    assert set(seen.most) <= {"card"}
    assert data_of(seen)[0]["settings"]["classes"] == ["card"]


# --- refused before anything loads --------------------------------------------------------------------------------


def test_what_is_no_video_or_not_alone_is_refused(coins, tmp_path):
    path = clip(tmp_path / "a.mp4", coins, 2)
    with pytest.raises(InputError, match="alone, and 2 files"):
        job.request([path, path], OPTIONS)
    with pytest.raises(InputError, match="every has to be at least 1"):
        job.request([path], OPTIONS | {"every": 0})
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4 is not a video"):
        job.request([tmp_path / "text.mp4"], OPTIONS)
    with pytest.raises(InputError, match=r"gone\.mov"):
        job.request([tmp_path / "gone.mov"], OPTIONS)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(InputError, match="no picture track"):
        job.request([tmp_path / "sound.mp4"], OPTIONS)


def test_videos_are_known_by_their_names():
    assert is_video(Path("A.MP4"))
    assert is_video(Path("b.webm"))
    assert not is_video(Path("c.gif"))
    assert not is_video(Path("mp4"))


# --- the command line ---------------------------------------------------------------------------------------------


def test_a_video_runs_from_the_command_line(coins, tmp_path):
    path = clip(tmp_path / "street.mp4", coins, 3)
    words = ["run", "damo_yolo", str(path), "--variant", "preview", "--size", "320", "--out", str(tmp_path / "out")]
    environ = {**os.environ, "ANYHOST_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "app.py", *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "street.mp4: 3 frames, at most" in done.stdout
    assert "pictures a second" in done.stdout
    assert str(tmp_path / "out" / "street-detections.mp4") in done.stdout
    assert PREVIEW_NOTE in done.stdout
    assert (
        json.loads((tmp_path / "out" / "street-detections.jsonl").read_text().splitlines()[0])["video"] == "street.mp4"
    )
