"""Rendered scenes on disk, and the batches made from them on line: ``python -m training.depth.data --out FOLDER``."""

import argparse
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.metric3d.geometry import CANONICAL_FOCAL_PX, PAD_COLOUR, PIXEL_MEAN, PIXEL_STD
from training.depth.scene import Scene, render
from training.depth.textures import Rng

HELD_OUT_SEED = 10_000_000
"""Seeds from here on are for judging; training never reaches them."""

CHUNK = 250
NORMAL_STEPS = 127


def write_chunk(folder: Path, number: int) -> None:
    """Render scenes ``CHUNK * number`` and following into a file of ``folder``, unless it is there."""
    path = folder / f"{number:04d}.npz"
    if path.exists():
        return
    scenes = [render(seed) for seed in range(number * CHUNK, (number + 1) * CHUNK)]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            image=np.stack([s.image for s in scenes]),
            depth=np.stack([s.depth.astype(np.float16) for s in scenes]),
            normal=np.stack([np.rint(s.normal * NORMAL_STEPS).astype(np.int8) for s in scenes]),
            focal=np.array([s.focal_px for s in scenes], np.float32),
        )
    partial.replace(path)


def read_chunk(path: Path) -> list[Scene]:
    """The scenes of a file, with normals as they were stored: int8, -127..127."""
    with np.load(path) as kept:
        image, depth, normal, focal = (kept[name] for name in ("image", "depth", "normal", "focal"))
    return [Scene(i, d, n, float(f)) for i, d, n, f in zip(image, depth, normal, focal, strict=True)]


@dataclass(frozen=True)
class Batch:
    """What a step sees.

    Attributes:
        images: ``[B, 3, H, W]`` fp32, normalised as the adapter does.
        depth: ``[B, 1, H, W]`` fp32 canonical metres.
        normals: ``[B, 3, H, W]`` fp32 unit.
        known: ``[B, 1, H, W]`` bool; false on the border.
    """

    images: Tensor
    depth: Tensor
    normals: Tensor
    known: Tensor


@dataclass(frozen=True)
class View:
    """One training example, as arrays ``[H, W, ...]``; ``depth`` canonical, 0 on the border."""

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]


def view(scene: Scene, size: tuple[int, int], rng: Rng, *, zoom: float = 1.35) -> View:
    """A random crop of ``scene`` at a random scale, sometimes mirrored or with a border, of ``size``.

    At least half of them show as much of the scene as fits, the others parts of it up to ``zoom`` times as large.

    Depth becomes canonical by the focal length that the scaled picture has: halving a picture halves its focal length
    and doubles canonical depth.
    """
    height, width = scene.depth.shape
    smallest = max(size[0] / height, size[1] / width)
    scale = float(rng.choice([smallest, rng.uniform(smallest, max(smallest, min(1.0, zoom * smallest)))]))
    # With a border the picture fills the rest, as pictures of other shapes do in the application.
    inner = list(size)
    if rng.random() < 0.3:
        inner[int(rng.integers(2))] -= 2 * int(rng.integers(1, 30))
    rows, columns = (min(round(length / scale), side) for length, side in zip(inner, (height, width), strict=True))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    cut = (slice(top, top + rows), slice(left, left + columns))
    shape = (inner[1], inner[0])
    image = cv2.resize(scene.image[cut], shape, interpolation=cv2.INTER_LINEAR)
    depth = cv2.resize(scene.depth[cut].astype(np.float32), shape, interpolation=cv2.INTER_NEAREST)
    normal = cv2.resize(scene.normal[cut], shape, interpolation=cv2.INTER_NEAREST).astype(np.float32) / NORMAL_STEPS
    depth = depth * np.float32(CANONICAL_FOCAL_PX / (scene.focal_px * scale))
    if rng.random() < 0.5:
        image, depth, normal = image[:, ::-1], depth[:, ::-1], normal[:, ::-1] * np.array([-1, 1, 1], np.float32)
    down, across = (outer - length for outer, length in zip(size, inner, strict=True))
    pads = ((down // 2, down - down // 2), (across // 2, across - across // 2))
    framed = np.full((*size, 3), PAD_COLOUR, np.uint8)
    framed[pads[0][0] : size[0] - pads[0][1], pads[1][0] : size[1] - pads[1][1]] = toned(np.asarray(image), rng)
    return View(framed, np.pad(depth, pads), np.pad(normal, (*pads, (0, 0))))


def toned(image: NDArray[np.uint8], rng: Rng) -> NDArray[np.uint8]:
    """Brightness, gamma and colours a little changed; sometimes grey, blurred or noisy."""
    if rng.random() < 0.12:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8)
    elif rng.random() < 0.3:
        image = np.ascontiguousarray(image[..., rng.permutation(3)])
    steps = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.08, 3) - 0.02)
    tables = (steps * rng.uniform(0.75, 1.2) * 255).clip(0, 255).astype(np.uint8)
    image = np.stack([tables[:, c][image[..., c]] for c in range(3)], axis=-1)
    if rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9)), np.uint8)
    if rng.random() < 0.3:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 8)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    return image


def collated(views: list[View]) -> Batch:
    """One batch of views of one size."""
    images = torch.from_numpy(np.stack([v.image for v in views])).permute(0, 3, 1, 2).float()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    depth = torch.from_numpy(np.stack([v.depth for v in views]))[:, None]
    normals = torch.from_numpy(np.stack([v.normal for v in views])).permute(0, 3, 1, 2)
    return Batch((images - mean) / deviation, depth, normals.contiguous(), depth > 0)


class Pool:
    """The scenes of a folder, or one process's share of its files; new files are read as they come.

    Args:
        folder: that ``write_chunk`` writes to.
        rank: number of this process.
        of: how many there are.

    Raises:
        FileNotFoundError: no file of this share is there yet.
    """

    def __init__(self, folder: Path, *, rank: int = 0, of: int = 1) -> None:
        self.folder, self.rank, self.of = folder, rank, of
        self.scenes: list[Scene] = []
        self._read: set[Path] = set()
        self.refresh()
        if not self.scenes:
            raise FileNotFoundError(f"no scenes in {folder} for process {rank}; render some with training.depth.data")

    def refresh(self) -> None:
        """Read files that are new."""
        for path in sorted(self.folder.glob("*.npz")):
            if int(path.stem) % self.of == self.rank and path not in self._read:
                self._read.add(path)
                self.scenes += read_chunk(path)


def batches(pool: Pool, *, batch: int, size: tuple[int, int], seed: int, zoom: float = 1.35) -> Iterator[Batch]:
    """Endless batches, the scenes reshuffled every epoch; a thread prepares a few ahead."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=3)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def prepare() -> None:
        rng = np.random.default_rng([seed, 2])
        order: list[int] = []
        try:
            while not stop.is_set():
                while len(order) < batch:
                    pool.refresh()
                    order += [int(i) for i in rng.permutation(len(pool.scenes))]
                picked, order = order[:batch], order[batch:]
                put(collated([view(pool.scenes[i], size, rng, zoom=zoom) for i in picked]))
        except Exception as error:  # noqa: BLE001 - handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the files of scenes")
    parser.add_argument("--chunks", type=int, default=24, help=f"files of {CHUNK} scenes")
    arguments = parser.parse_args()
    if arguments.chunks * CHUNK > HELD_OUT_SEED:
        raise SystemExit(f"--chunks {arguments.chunks} would reach the held-out seeds")
    arguments.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    for number in range(arguments.chunks):
        write_chunk(arguments.out, number)


if __name__ == "__main__":
    main()
