"""Larger, well-lit scenes for people to look at: ``python -m training.scenes.examples --out assets/examples``."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.scenes import background
from training.scenes.canvas import Array, Rng
from training.scenes.scene import Scene, Spot, composed

SIZE = (720, 960)


@dataclass(frozen=True)
class Example:
    """``name`` of the file, ``seed``, the ``ground``, the camera's ``elevation`` (radians) and how many objects."""

    name: str
    seed: int
    ground: Callable[[Rng, int, int], Array]
    elevation: float
    columns: int
    rows: int


EXAMPLES = (
    Example("scene_wood", 14, background.wood, 0.75, 4, 3),
    Example("scene_cloth", 11, background.cloth, 0.85, 3, 2),
    Example("scene_tiles", 15, background.tiles, 0.95, 4, 3),
    Example("scene_plain", 10, background.plain, 0.65, 5, 3),
)


def example(which: Example) -> Scene:
    """One scene of 960x720 px: every class at least once, loosely in rows, photographed by a good camera."""
    height, width = SIZE
    rng = np.random.default_rng([which.seed, height, width])
    canvas = np.clip(which.ground(rng, height, width), 0.02, 0.98)
    return composed(rng, canvas, _rows(rng, which), which.elevation, clean=True)


def _rows(rng: Rng, which: Example) -> list[Spot]:
    height, width = SIZE
    cells = which.columns * which.rows
    labels = [int(v) for v in rng.permutation(np.resize(rng.permutation(5), cells))]
    pitch_x, pitch_y = width / which.columns, height / which.rows
    spots = []
    for cell, label in enumerate(labels):
        row, column = divmod(cell, which.columns)
        x = (column + 0.5 + rng.uniform(-0.14, 0.14)) * pitch_x
        y = (row + 0.5 + rng.uniform(-0.14, 0.14)) * pitch_y
        spots.append(Spot(label, x, y, int(min(pitch_x, pitch_y) * rng.uniform(0.6, 0.82))))
    return sorted(spots, key=lambda spot: spot.y)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the JPEG files")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for which in EXAMPLES:
        Image.fromarray(example(which).image).save(folder / f"{which.name}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
