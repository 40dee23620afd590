"""A long video through the detector with its memory watched: ``python -m tests.long_clip [--minutes 10]``.

Run by hand; the short version is in ``tests/test_damo_yolo_long.py``. The clip is made with PyAV first, then worked
through by ``app.py run`` in a process of its own, whose resident memory is read once a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from kit.video import ClipWriter
from tests.machines import ROOT

COINS = ROOT / "assets" / "examples" / "coins.png"
MB = 2**20


@dataclass(frozen=True)
class Watched:
    """A process that ended.

    Attributes:
        code: its exit status.
        output: what it wrote.
        seconds: how long it took.
        rss: resident bytes, once an interval.
    """

    code: int
    output: str
    seconds: float
    rss: tuple[int, ...]

    def peak(self, of: slice = slice(None)) -> int:
        """Largest resident memory of a part of the run, in bytes."""
        return max(self.rss[of], default=0)


def make_clip(path: Path, *, seconds: float, fps: float, size: tuple[int, int]) -> Path:
    """Coins that drift: every frame differs from the one before. ``size`` is (height, width)."""
    height, width = size
    rgb = np.asarray(Image.open(COINS).convert("RGB").resize((width, height)))
    with ClipWriter(path, fps=fps) as writer:
        for index in range(round(seconds * fps)):
            writer.write(_drifted(rgb, index), index / fps)
    return path


def _drifted(rgb: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    return np.roll(rgb, (2 * index) % rgb.shape[1], axis=1)


def watch(words: list[str], *, cache: Path, every: float = 1.0) -> Watched:
    """Run ``python app.py words`` with a cache of its own and read its resident memory until it ends."""
    began, rss, said = time.monotonic(), [0], list[str]()
    environ = {**os.environ, "ANYHOST_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "app.py", *words],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        # A pipe nobody reads would stop the process.
        reading = threading.Thread(target=lambda: said.extend(process.stdout or ()))
        reading.start()
        while process.poll() is None:
            rss.append(_resident(process.pid))
            time.sleep(every)
        reading.join()
    return Watched(process.returncode, "".join(said), time.monotonic() - began, tuple(rss))


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def main() -> None:
    """Make the clip, work through it, and say how memory went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        clip = make_clip(
            Path(folder) / "long.mp4", seconds=args.minutes * 60, fps=args.fps, size=(args.height, args.width)
        )
        made = (
            f"{args.width}×{args.height}, {args.minutes:g} min at {args.fps:g} fps, {clip.stat().st_size / MB:.0f} MB"
        )
        print(f"clip: {made} (made in {time.monotonic() - began:.0f} s)", flush=True)
        words = ["run", "damo_yolo", str(clip), "--variant", "preview", "--out", f"{folder}/out", "--json"]
        ended = watch(words, cache=Path(folder) / "cache")
    if ended.code:
        sys.exit(ended.output)
    report(ended)


def report(ended: Watched) -> None:
    """Frames, speed, and the peaks of each tenth of the run."""
    answer = json.loads(ended.output[ended.output.index("{") :])
    (output,) = answer["outputs"]
    rate = output["pictures_per_second"]
    print(f"frames: {output['frames']} in {ended.seconds:.0f} s; {rate['all']:.1f} a second in all")
    tenth = max(1, len(ended.rss) // 10)
    peaks = [ended.peak(slice(start, start + tenth)) / MB for start in range(0, len(ended.rss), tenth)]
    print("resident, peak of each tenth of the run, MB: " + " ".join(f"{peak:.0f}" for peak in peaks))
    half = len(ended.rss) // 2
    first, second = ended.peak(slice(tenth, half)), ended.peak(slice(half, None))
    print(f"second half over first: {second / first:.3f}")


if __name__ == "__main__":
    main()
