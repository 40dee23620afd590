"""A body's skeleton as the pose ControlNet was trained to read it, drawn from an ONNX network's joints.

The network is the user's own file: any of the RTMPose family as exported with its two one-dimensional heat maps, for
instance dw-ll_ucoco_384.onnx of DWPose (arXiv 2303.07399, arXiv 2307.15880): COCO's 17 joints come first in its output.
Colours and limbs are those of OpenPose's 18-joint body (arXiv 1812.08008).
"""

import colorsys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kit.sessions import OnnxSession
from loader.errors import InputError, WeightsError
from loader.spec import Size

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SPLIT = 2.0  # bins of a heat map for a pixel of the network's input
CERTAIN = 0.3
COCO_JOINTS = 17
# OpenPose's order by COCO's: nose, (neck), right arm, left arm, right leg, left leg, eyes, ears. −1 is the neck.
ORDER = (0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
SHOULDERS = (5, 6)
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
LIMB_BRIGHTNESS = 0.6

Rgb = NDArray[np.uint8]
Joints = NDArray[np.float32]


def skeleton_picture(rgb: Rgb, network: Path, size: Size) -> Rgb:
    """The skeleton of the person in a picture, drawn at ``size`` (height, width).

    Raises:
        InputError: no joint is certain enough.
        WeightsError: the file is no such network.
    """
    session = OnnxSession(network, what="a joint finder with two one-dimensional heat maps", expects=(1, 2))
    joints = find_joints(session, rgb)
    joints[:, 0] *= size[1] / rgb.shape[1]
    joints[:, 1] *= size[0] / rgb.shape[0]
    return draw_skeleton(joints, size)


def find_joints(session: OnnxSession, rgb: Rgb) -> Joints:
    """OpenPose's 18 joints ``[18, 3]`` of one person: x, y in pixels of the picture, certainty.

    Raises:
        InputError: no joint is certain enough.
        WeightsError: the outputs are not those of such a network.
    """
    ((name, bound),) = session.inputs.items()
    height, width = (side or default for side, default in zip(bound[-2:] or (None, None), (384, 288), strict=True))
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    small = cv2.resize(rgb, (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))))
    canvas = np.full((height, width, 3), MEAN, np.float32)
    canvas[: small.shape[0], : small.shape[1]] = small
    blob = ((canvas - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)[None]
    across, down = session.run({name: blob})
    if across.ndim != 3 or down.ndim != 3 or min(across.shape[1], down.shape[1]) < COCO_JOINTS:
        raise WeightsError(
            f"{session.name} gives arrays of {[*across.shape]} and {[*down.shape]}; expected heat maps of at least "
            f"{COCO_JOINTS} joints along x and along y"
        )
    coco = np.stack(
        [
            across[0, :COCO_JOINTS].argmax(-1) / SPLIT / scale,
            down[0, :COCO_JOINTS].argmax(-1) / SPLIT / scale,
            np.minimum(across[0, :COCO_JOINTS].max(-1), down[0, :COCO_JOINTS].max(-1)),
        ],
        axis=-1,
    ).astype(np.float32)
    if not (coco[:, 2] >= CERTAIN).any():
        raise InputError("no body was found in the pose picture: give a skeleton picture, or untick pose")
    neck = coco[list(SHOULDERS)].mean(axis=0)
    neck[2] = coco[list(SHOULDERS), 2].min()
    return np.stack([neck if index < 0 else coco[index] for index in ORDER])


def draw_skeleton(joints: Joints, size: Size) -> Rgb:
    """Joints ``[18, 3]`` (x, y, certainty) as a picture ``[H, W, 3]``: dimmed limbs, bright dots, on black."""
    height, width = size
    stroke = max(2, round(min(size) / 128))
    canvas = np.zeros((height, width, 3), np.uint8)
    for index, (start, end) in enumerate(LIMBS):
        if min(joints[start, 2], joints[end, 2]) >= CERTAIN:
            _limb(canvas, joints[[start, end], :2], stroke, _colour(index, LIMB_BRIGHTNESS))
    for index, (x, y, certainty) in enumerate(joints):
        if certainty >= CERTAIN:
            cv2.circle(canvas, (int(x), int(y)), stroke, _colour(index), cv2.FILLED)
    return canvas


def _limb(canvas: Rgb, ends: Joints, stroke: int, colour: tuple[float, float, float]) -> None:
    centre, along = ends.mean(axis=0), ends[1] - ends[0]
    axes = (max(1, int(np.hypot(*along) / 2)), stroke)
    angle = int(np.degrees(np.arctan2(along[1], along[0])))
    outline = cv2.ellipse2Poly((int(centre[0]), int(centre[1])), axes, angle, 0, 360, 1)
    cv2.fillConvexPoly(canvas, np.asarray(outline, np.int32), colour)


def _colour(index: int, brightness: float = 1.0) -> tuple[float, float, float]:
    """Eighteen hues around the circle, red first."""
    red, green, blue = colorsys.hsv_to_rgb(index / 18, 1.0, 1.0)
    return tuple(round(255 * brightness * part) for part in (red, green, blue))  # type: ignore[return-value]
