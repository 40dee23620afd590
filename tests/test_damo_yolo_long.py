"""Memory does not grow with the length of a video: the short version of ``tests/long_clip.py``."""

import json

from tests.long_clip import make_clip, watch

FPS, SIZE = 2.0, (480, 640)  # eighty frames more would be 74 MB, were they kept


def test_three_times_the_length_takes_the_same_memory(tmp_path):
    peaks, frames = [], []
    for seconds in (20, 60):
        clip = make_clip(tmp_path / f"{seconds}.mp4", seconds=seconds, fps=FPS, size=SIZE)
        out = str(tmp_path / "out")
        words = ["run", "damo_yolo", str(clip), "--variant", "preview", "--size", "320", "--out", out, "--json"]
        ended = watch(words, cache=tmp_path / "cache", every=0.05)
        assert ended.code == 0, ended.output
        frames.append(json.loads(ended.output[ended.output.index("{") :])["outputs"][0]["frames"])
        peaks.append(ended.peak())
    assert frames == [40, 120]
    assert peaks[1] <= peaks[0] * 1.1
