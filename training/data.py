"""Rendered scenes in memory, and the batches made from them on line."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.scenes import Scene, render

HELD_OUT_SEED = 10_000_000
"""Seeds from here on are for judging; training never reaches them."""


@dataclass(frozen=True)
class Batch:
    """``images`` float32 [B, 3, S, S] RGB 0..255; ``boxes`` [B, G, 4] xyxy px; ``labels`` [B, G], -1 where padded."""

    images: Tensor
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Augmentation:
    """How a scene is varied on its way into a batch.

    Attributes:
        scale: range of the enlargement.
        stretch: largest ratio of the two axes' scales, either way.
        flip: probability of a mirror image.
        grey: probability of dropping the colours.
        tone: largest change of brightness and of the gamma's logarithm.
        min_visible: share of an object that must remain in the crop for its label to.
    """

    scale: tuple[float, float] = (0.7, 1.3)
    stretch: float = 1.35
    flip: float = 0.5
    grey: float = 0.15
    tone: float = 0.25
    min_visible: float = 0.4


def render_many(seeds: Sequence[int], size: int, *, cache: Path | None = None) -> list[Scene]:
    """The scenes of ``seeds`` at ``size`` px, in order; with ``cache`` they are kept in that .npz file."""
    if cache is not None and cache.exists():
        return _unpacked(cache, seeds, size)
    scenes = [render(seed, size) for seed in seeds]
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            cache,
            seeds=np.array(seeds),
            images=np.stack([s.image for s in scenes]),
            counts=np.array([len(s.labels) for s in scenes]),
            boxes=np.concatenate([s.boxes for s in scenes]),
            labels=np.concatenate([s.labels for s in scenes]),
        )
    return scenes


def _unpacked(cache: Path, seeds: Sequence[int], size: int) -> list[Scene]:
    with np.load(cache) as kept:
        images, counts, boxes, labels = (kept[name] for name in ("images", "counts", "boxes", "labels"))
        if not np.array_equal(kept["seeds"], seeds) or images.shape[1] != size:
            raise ValueError(f"{cache} holds other seeds or another size than the {len(seeds)} at {size} px; remove it")
    ends = np.cumsum(counts)[:-1]
    parts = zip(images, np.split(boxes, ends), np.split(labels, ends), strict=True)
    return [Scene(image, b, c) for image, b, c in parts]


def augmented(scene: Scene, size: int, rng: np.random.Generator, how: Augmentation) -> Scene:
    """A random crop of ``size`` px of a scaled, stretched, sometimes mirrored or grey version of ``scene``."""
    height, width = scene.image.shape[:2]
    ratio = np.exp(rng.uniform(-1, 1) * np.log(how.stretch) / 2)
    scale = rng.uniform(*how.scale) * np.array([ratio, 1 / ratio])
    scale = np.maximum(scale, size / np.array([width, height]))
    room = scale * (width, height) - size
    shift = -rng.random(2) * np.maximum(room, 0)
    mirror = rng.random() < how.flip
    # OpenCV counts from the centre of the first pixel, boxes from its corner.
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    matrix[:, 2] += (scale - 1) / 2
    boxes = scene.boxes * np.tile(scale, 2).astype(np.float32) + np.tile(shift, 2).astype(np.float32)
    if mirror:
        matrix[0] = [-scale[0], 0, size - 1 - matrix[0, 2]]
        boxes = boxes[:, [2, 1, 0, 3]]
        boxes[:, [0, 2]] = size - boxes[:, [0, 2]]
    image = np.asarray(cv2.warpAffine(scene.image, matrix, (size, size), flags=cv2.INTER_LINEAR), np.uint8)
    cut = boxes.clip(0, size)
    area = np.prod(cut[:, 2:] - cut[:, :2], 1) / np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], 1), 1e-6)
    keep = (area >= how.min_visible) & ((cut[:, 2:] - cut[:, :2]).min(1, initial=size) >= 4)
    return Scene(_toned(image, rng, how), cut[keep].astype(np.float32), scene.labels[keep])


def _toned(image: npt.NDArray[np.uint8], rng: np.random.Generator, how: Augmentation) -> npt.NDArray[np.uint8]:
    if rng.random() < how.grey:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8)
    elif rng.random() < 0.2:
        image = np.ascontiguousarray(image[..., rng.permutation(3)])
    gain, power = 1 + rng.uniform(-how.tone, how.tone), np.exp(rng.uniform(-how.tone, how.tone))
    table = (np.linspace(0, 1, 256) ** power * gain * 255).clip(0, 255).astype(np.uint8)
    out: npt.NDArray[np.uint8] = table[image]
    return out


def collated(scenes: Sequence[Scene]) -> Batch:
    """One batch of scenes of one size."""
    most = max(1, *(len(s.labels) for s in scenes))
    boxes, labels = torch.zeros(len(scenes), most, 4), torch.full((len(scenes), most), -1)
    for row, scene in enumerate(scenes):
        boxes[row, : len(scene.labels)] = torch.from_numpy(scene.boxes)
        labels[row, : len(scene.labels)] = torch.from_numpy(scene.labels)
    images = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2)
    return Batch(images.float(), boxes, labels)


def batches(
    scenes: Sequence[Scene], *, steps: int, batch: int, size: int, seed: int, how: Augmentation
) -> Iterator[Batch]:
    """``steps`` batches, the scenes reshuffled every epoch; a thread prepares a few ahead."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=4)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def prepare() -> None:
        rng = np.random.default_rng(seed)
        order: list[int] = []
        try:
            for _ in range(steps):
                while len(order) < batch:
                    order += [int(i) for i in rng.permutation(len(scenes))]
                picked, order = order[:batch], order[batch:]
                put(collated([augmented(scenes[i], size, rng, how) for i in picked]))
                if stop.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=prepare, daemon=True)
    thread.start()
    try:
        for _ in range(steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
