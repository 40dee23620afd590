"""AniPortrait from files to files: kinds of input, options, faults, the command line."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from adapters.aniportrait import job
from adapters.aniportrait.rendered import FOLDER, PICTURE, SOUND, render_portrait, speech_like
from adapters.aniportrait.requests import Driving, PoseClip, Speech, Still
from adapters.aniportrait.stand_in import StandInFace
from kit.ai_label import read_settings
from kit.audio import read_sound
from kit.exports import OutputError
from kit.images import open_picture
from kit.settings import read_settings as settings_of_file
from kit.video import probe_clip, read_frames
from loader.errors import InputError
from tests.aniportrait_runs import SMALL, clip, head, request, run, tone
from tests.machines import ROOT, engine_on, host_with

DEFAULTS = {name: default for name, (_, default, _) in job.OPTIONS.items()} | {"consent": True}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = engine_on(host_with(), tmp_path_factory.mktemp("engine"))
    yield made
    made.close()


@pytest.fixture
def files(tmp_path):
    Image.fromarray(head()).save(tmp_path / "head.png")
    soundfile.write(tmp_path / "said.wav", tone(0.5).samples, 16_000)
    return tmp_path


def asked(folder, name, **options):
    return job.request([folder / "head.png", folder / name], DEFAULTS | {"out": folder / "out"} | options)


# ---- what is asked for


def test_what_moves_it_is_told_by_the_kind_of_file(files):
    clip(files / "drive.mp4", [head()] * 3)
    assert isinstance(asked(files, "said.wav").source, Speech)
    assert isinstance(asked(files, "drive.mp4").source, Driving)
    assert isinstance(asked(files, "drive.mp4", poses=True).source, PoseClip)
    still = asked(files, "head.png", poses=True).source
    assert isinstance(still, Still)
    assert still.drawn
    (files / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt: a portrait is moved by a sound"):
        asked(files, "notes.txt")


def test_the_head_may_follow_a_video_or_a_track(files):
    assert asked(files, "said.wav", head="still").source.head == "still"
    np.save(files / "track.npy", np.zeros((20, 6)))
    track = asked(files, "said.wav", head=str(files / "track.npy"), style=7).source
    assert (track.head, track.style, track.head_track.shape) == ("video", 7, (20, 6))
    clip(files / "nod.mp4", [head()] * 3)
    assert asked(files, "said.wav", head=str(files / "nod.mp4")).source.head_video == files / "nod.mp4"
    (files / "broken.npy").write_bytes(b"no array")
    for word, message in (("nowhere.mp4", "choose sound or still"), (str(files / "broken.npy"), "array of numbers")):
        with pytest.raises(InputError, match=message):
            asked(files, "said.wav", head=word)


def test_consent_two_files_and_numbers_in_range_are_asked_for(files):
    with pytest.raises(InputError, match="--set consent=yes"):
        asked(files, "said.wav", consent=False)
    with pytest.raises(InputError, match=r"two files are needed.*got 1"):
        job.request([files / "head.png"], DEFAULTS)
    for option, value, message in (
        ("guidance", 21.0, "choose 0 to 20"),
        ("seed", -1, "choose 0 to 2147483647"),
        ("style", 100, "choose 0 to 99"),
        ("pose_guider", "new", "choose faithful or clean"),
    ):
        with pytest.raises(InputError, match=message):
            asked(files, "said.wav", **{option: value})
    assert job.yes_no("Off") is False
    with pytest.raises(ValueError, match="neither yes nor no"):
        job.yes_no("maybe")


def test_only_the_host_s_own_environment_switches_the_label_off(files, monkeypatch):
    assert asked(files, "said.wav").labelled
    monkeypatch.setenv("ANYHOST_AI_LABEL", "off")
    assert not asked(files, "said.wav").labelled


# ---- what is written


def test_records_and_settings_bring_a_clip_back(engine, files):
    made_of = asked(files, "said.wav", seed=9, guidance=2.0, style=3)
    made, result = run(engine, made_of)
    (output,) = job.write(result, made_of, files)
    assert output["files"] == [str(made.path)]
    assert (output["seed"], output["style"], output["size"], output["made"]) == (9, 3, [64, 64], 4)
    assert "head.png: 10 frames of 64×64 at 30 a second, 4 of them made" in output["summary"][0]
    told = settings_of_file(made.path)
    assert (told.adapter, told.variant) == ("aniportrait", "miniature")
    assert told.options == {
        "seed": 9,
        "guidance": 2.0,
        "style": 3,
        "head": "sound",
        "pose_guider": "faithful",
        "crop": True,
        "compare": False,
    }
    assert set(told.options) <= set(job.OPTIONS)
    assert told.wishes.steps == 2


def test_a_picture_carries_its_settings(engine, files):
    made_of = asked(files, "head.png")
    made, result = run(engine, made_of, replace(SMALL, size=(128, 128)))
    assert read_settings(made.path)["ai_generated"]
    assert "one picture of 128×128" in job.write(result, made_of, files)[0]["summary"][0]


# ---- faults


@pytest.mark.parametrize("seconds", [0.2, 600])
def test_short_and_long_sounds(engine, files, seconds):
    """Ten minutes are read no further than the clip is long."""
    rate = 8_000
    soundfile.write(files / "said.wav", np.tile(tone(0.2, rate).samples, round(seconds / 0.2)), rate)
    made, _ = run(engine, asked(files, "said.wav"), replace(SMALL, steps=1))
    assert made.frames == (4 if seconds < 1 else 10)
    assert ("cut" in made.notes) == (seconds > 1)


def test_silence_stereo_and_mp3(engine, files):
    soundfile.write(files / "silent.wav", np.zeros((44_100, 2), np.float32), 44_100)
    made, _ = run(engine, asked(files, "silent.wav"), replace(SMALL, steps=1))
    assert "silent" in made.notes
    with av.open(str(files / "said.mp3"), "w") as container:
        stream = container.add_stream("mp3", rate=44_100, layout="stereo")
        left = tone(1.0, 44_100).samples
        for start in range(0, 44_100 - 1152, 1152):
            block = np.stack((left[start : start + 1152], left[start : start + 1152]))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
            frame.sample_rate = 44_100
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    made, _ = run(engine, asked(files, "said.mp3"), replace(SMALL, steps=1))
    assert "silent" not in made.notes
    assert np.abs(read_sound(made.path).samples).max() > 0.05


def test_a_corrupt_video_is_refused_in_words(engine, files):
    path = clip(files / "drive.mp4", [head(x=0.4 + 0.01 * i) for i in range(20)])
    whole = path.read_bytes()
    (files / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (files / "text.mp4").write_text("this is no video")
    for name in ("cut.mp4", "text.mp4"):
        with pytest.raises(InputError, match=name):
            run(engine, asked(files, name))


def test_a_varying_rate_becomes_an_even_one_and_turned_videos_stand_upright(engine, files):
    times = [0, 0.05, 0.3, 0.35, 0.6, 0.62, 0.9, 1.0]
    clip(files / "varying.mp4", [head(x=0.3 + 0.03 * i) for i in range(8)], times)
    made, _ = run(engine, asked(files, "varying.mp4"), replace(SMALL, steps=1))
    stamps = [frame.seconds for frame in read_frames(made.path)]
    assert np.ptp(np.diff(stamps)) < 1e-3
    turned = files / "turned.mp4"
    lying = [np.ascontiguousarray(np.rot90(head(200, 120))) for _ in range(7)]
    clip(files / "lying.mp4", lying)
    with av.open(str(files / "lying.mp4")) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = bytearray(turned.read_bytes())
    # The matrix of a track header: turned a quarter to the right.
    place = data.find(b"tkhd") + 4 + 40
    matrix = np.array([0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000], ">i4").tobytes()
    data[place : place + 36] = matrix
    turned.write_bytes(bytes(data))
    assert probe_clip(turned).size == (200, 120)
    seen = []

    def noting(self, picture, near=None, found=StandInFace.forward):
        seen.append(picture.shape[:2])
        return found(self, picture, near)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StandInFace, "forward", noting)
        run(engine, asked(files, "turned.mp4"), replace(SMALL, steps=1))
    assert (200, 120) in seen


def test_no_face_and_two_faces(engine, files):
    Image.fromarray(head(face=False)).save(files / "head.png")
    with pytest.raises(InputError, match=r"head\.png: no face was found: send a picture in which"):
        run(engine, asked(files, "said.wav"))
    Image.fromarray(head()).save(files / "head.png")

    def with_another(self, picture, near=None, found=StandInFace.forward):
        return replace(found(self, picture, near), others=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StandInFace, "forward", with_another)
        made, _ = run(engine, asked(files, "said.wav"), replace(SMALL, steps=1))
    assert "faces" in made.notes
    assert made.look.faces == 2


def test_a_full_disk_ends_in_words_and_the_clip_can_be_written_later(engine, files, monkeypatch):
    from adapters.aniportrait.running import Stopped, animate
    from kit.running import Asked

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kit.video.ClipWriter._mux", full)
    made_of = asked(files, "said.wav")
    with pytest.raises(Exception, match="No space"):
        run(engine, made_of)
    monkeypatch.undo()
    monkeypatch.setattr("kit.video.ClipWriter.write", lambda *_: (_ for _ in ()).throw(OutputError("the disk is full")))
    *_, stopped = animate(engine, made_of, Asked(SMALL))
    assert isinstance(stopped, Stopped)
    assert "disk is full" in str(stopped.error)
    assert stopped.unfinished.step == 2
    monkeypatch.undo()
    out = files / "out"
    assert not out.exists() or not list(out.iterdir())
    *_, later = animate(engine, stopped.again, Asked(SMALL))
    assert later.animation.frames == 10


def test_two_at_once_get_their_own_clips(engine, files):
    def frames(seed: int, folder: str) -> np.ndarray:
        made, _ = run(engine, asked(files, "said.wav", seed=seed, out=files / folder), replace(SMALL, steps=1))
        return np.stack([frame.rgb for frame in read_frames(made.path)])

    alone = {seed: frames(seed, f"alone{seed}") for seed in (1, 2)}
    together: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        together[seed] = frames(seed, "together")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not np.array_equal(alone[1], alone[2])
    for seed, expected in alone.items():
        np.testing.assert_array_equal(together[seed], expected)


# ---- the example, and the command line


def test_the_example_is_rendered_and_nobody_speaks():
    picture = open_picture(FOLDER / PICTURE)
    assert (FOLDER / PICTURE).stat().st_size < 100_000
    small = render_portrait(24)
    shipped = np.asarray(Image.fromarray(picture.rgb).resize((24, 24), Image.Resampling.LANCZOS))
    assert np.abs(small.astype(int) - shipped).mean() < 6
    assert StandInFace()(picture.rgb) is not None
    sound = read_sound(FOLDER / SOUND)
    np.testing.assert_allclose(sound.samples, speech_like().samples, atol=1e-3)
    assert 2 < sound.seconds < 5


def test_the_command_line_makes_a_clip(files, tmp_path):
    environ = {"PATH": "/usr/bin:/bin", "ANYHOST_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    words = ["run", "aniportrait", "head.png", "said.wav", "--variant", "miniature", "--size", "64x64", "--steps", "1"]
    words += ["--frames", "2", "--set", "consent=yes", "--out", "made", "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *words],
        cwd=files,
        env=environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (output,) = told["outputs"]
    assert (output["frames"], output["made"], output["size"]) == (4, 2, [64, 64])
    assert probe_clip(files / output["files"][0]).size == (64, 64)
    assert told["variant"] == "miniature"


def test_requests_are_values(tmp_path):
    one = request(tmp_path)
    assert replace(one, seed=3).seed == 3
    assert one.teaches
