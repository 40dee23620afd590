"""Finding a face and its keypoints, and preparing it for recognition; the two networks are called by the caller.

Sources: SCRFD (arXiv 2105.04714) and ArcFace (arXiv 1801.07698) as deepinsight/insightface 0.7.3 runs them in
"antelopev2": scrfd_10g_bnkps.onnx and glintr100.onnx. Pictures are BGR uint8 ``[H, W, 3]``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from loader.errors import InputError

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]
Network = Callable[[Floats], Sequence[Floats]]  # an onnxruntime session: one input, its outputs in their order

DETECTION_SIDE = 640
STRIDES = (8, 16, 32)
ANCHORS = 2
SCORE_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.4

CROP_SIDE = 112
# Where recognition expects the keypoints of a 112x112 crop.
TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces of one picture, most certain first.

    Attributes:
        boxes: ``[n, 4]`` x and y of two corners in pixels; may reach beyond the picture.
        scores: ``[n]``, 0 to 1.
        keypoints: ``[n, 5, 2]`` x and y in pixels: left eye, right eye, nose, left and right corner of the mouth.
    """

    boxes: Floats
    scores: Floats
    keypoints: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "Faces":
        return Faces(self.boxes[chosen], self.scores[chosen], self.keypoints[chosen])

    @property
    def largest(self) -> int:
        """Index of the face with the largest box, the last one of equals.

        Raises:
            InputError: there is no face.
        """
        if not len(self):
            raise InputError("no face was found; use a picture in which one face is clearly visible")
        left, top, right, bottom = self.boxes.T
        return int(np.argsort((right - left) * (bottom - top), kind="stable")[-1])


def detect(picture: Picture, detector: Network) -> Faces:
    """Faces of a picture; ``detector`` is scrfd_10g_bnkps, ``[1, 3, 640, 640]`` to its nine outputs.

    Raises:
        InputError: the picture is not ``[H, W, 3]`` uint8.
    """
    blob, scale = letterbox(picture)
    return decode(detector(blob), scale)


def embed(picture: Picture, keypoints: ArrayLike, recogniser: Network) -> Floats:
    """Identity of one face, ``[512]`` as the network gives it; ``recogniser`` is glintr100, ``[1, 3, 112, 112]``.

    InstantID was trained on embeddings that are not normalised.
    """
    return np.asarray(recogniser(recognition_blob(align(picture, keypoints)))[0], np.float32).reshape(-1)


def letterbox(picture: Picture, side: int = DETECTION_SIDE) -> tuple[Floats, float]:
    """A picture scaled into the upper left of a black square, as the detector's input.

    Args:
        picture: BGR uint8.
        side: of the square, in pixels.

    Returns:
        RGB ``[1, 3, side, side]``, about -1 to 1, and the scale: pixels there by pixels of the picture.

    Raises:
        InputError: not a picture, or too narrow to be scaled.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise InputError(f"a picture is [H, W, 3] uint8, got {[*picture.shape]} {picture.dtype}")
    height, width = picture.shape[:2]
    # Truncation, not rounding, and the scale of the height: keypoints go back through exactly this number.
    new_width, new_height = (
        (int(side / (height / width)), side) if height > width else (side, int(side * (height / width)))
    )
    if not new_width or not new_height:
        raise InputError(f"a {width}x{height} picture is too narrow for face detection; crop it to 1 : {side} or less")
    square = np.zeros((side, side, 3), np.uint8)
    square[:new_height, :new_width] = cv2.resize(picture, (new_width, new_height))
    return _blob(square, 128.0), new_height / height


def decode(outputs: Sequence[Floats], scale: float, side: int = DETECTION_SIDE) -> Faces:
    """Detector outputs to faces in the picture's pixels, overlapping ones removed.

    Args:
        outputs: scores ``[n, 1]`` of strides 8, 16, 32, then box distances ``[n, 4]`` of each, then keypoint offsets
            ``[n, 10]`` of each; rows by y, x, anchor; lengths in strides. A batch dimension of 1 is accepted.
        scale: from ``letterbox``.
        side: of the detector's input, in pixels.

    Returns:
        Faces of at least 0.5, most certain first.

    Raises:
        ValueError: the outputs are not those of this detector.
    """
    if len(outputs) != 3 * len(STRIDES):
        raise ValueError(f"the detector has {3 * len(STRIDES)} outputs, got {len(outputs)}; is it scrfd_10g_bnkps?")
    levels = [
        _decode_level(scores, distances, offsets, stride, side)
        for scores, distances, offsets, stride in zip(outputs[0:3], outputs[3:6], outputs[6:9], STRIDES, strict=True)
    ]
    faces = Faces(
        np.concatenate([level.boxes for level in levels], dtype=np.float32) / np.float32(scale),
        np.concatenate([level.scores for level in levels], dtype=np.float32),
        np.concatenate([level.keypoints for level in levels], dtype=np.float32) / np.float32(scale),
    )
    faces = faces[np.argsort(-faces.scores, kind="stable")]
    return faces[suppress(faces.boxes)]


def _decode_level(scores: Floats, distances: Floats, offsets: Floats, stride: int, side: int) -> Faces:
    cells = side // stride
    scores = scores.reshape(-1)
    if len(scores) != cells * cells * ANCHORS:
        raise ValueError(f"stride {stride} has {cells * cells * ANCHORS} anchors, got {len(scores)} scores")
    y, x = np.divmod(np.arange(cells * cells, dtype=np.int64).repeat(ANCHORS), cells)
    centres = np.stack((x, y), axis=-1).astype(np.float32) * stride
    certain = scores >= SCORE_THRESHOLD
    centres = centres[certain]
    reach = distances.reshape(-1, 4)[certain] * stride
    points = offsets.reshape(-1, 5, 2)[certain] * stride
    boxes = np.concatenate((centres - reach[:, :2], centres + reach[:, 2:]), axis=1)
    return Faces(boxes, scores[certain], centres[:, None] + points)


def suppress(boxes: Floats, threshold: float = OVERLAP_THRESHOLD) -> NDArray[np.intp]:
    """Indices of the boxes ``[n, 4]``, most certain first, that overlap no kept one by more than ``threshold``."""
    left, top, right, bottom = boxes.T
    # Corners are pixels that belong to the box, hence the ones.
    areas = (right - left + 1) * (bottom - top + 1)
    kept = []
    waiting = np.arange(len(boxes))
    while len(waiting):
        first, rest = waiting[0], waiting[1:]
        kept.append(first)
        widths = np.minimum(right[first], right[rest]) - np.maximum(left[first], left[rest]) + 1
        heights = np.minimum(bottom[first], bottom[rest]) - np.maximum(top[first], top[rest]) + 1
        shared = widths.clip(0) * heights.clip(0)
        waiting = rest[shared / (areas[first] + areas[rest] - shared) <= threshold]
    return np.asarray(kept, np.intp)


def similarity(keypoints: ArrayLike) -> NDArray[np.float64]:
    """The rotation, scale and shift that take five keypoints closest to the template, in least squares.

    A point is read as a complex number: the transform is then ``a * z + b``, a linear regression without reflection.

    Args:
        keypoints: ``[5, 2]`` x and y in pixels.

    Returns:
        ``[2, 3]`` matrix from picture to crop.

    Raises:
        InputError: not five finite points, or all in one place.
    """
    points = np.asarray(keypoints, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise InputError(f"a face is aligned by 5 finite keypoints (x, y), got an array of shape {points.shape}")
    source, target = (xy[:, 0] + 1j * xy[:, 1] for xy in (points, np.asarray(TEMPLATE)))
    centred = source - source.mean()
    spread = np.vdot(centred, centred).real
    if spread == 0:
        raise InputError("the five keypoints of this face are all in one place; choose another face")
    turn = np.vdot(centred, target - target.mean()) / spread
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align(picture: Picture, keypoints: ArrayLike) -> Picture:
    """The face as recognition wants it: BGR uint8 ``[112, 112, 3]``, keypoints on the template, black beyond."""
    crop = cv2.warpAffine(picture, similarity(keypoints), (CROP_SIDE, CROP_SIDE), borderValue=0.0)
    return np.asarray(crop, np.uint8)


def recognition_blob(crop: Picture) -> Floats:
    """An aligned crop as the recogniser's input: RGB ``[1, 3, 112, 112]``, -1 to 1."""
    return _blob(crop, 127.5)


def _blob(picture: Picture, divisor: float) -> Floats:
    rgb = picture[:, :, ::-1].astype(np.float32)
    return np.ascontiguousarray(((rgb - np.float32(127.5)) / np.float32(divisor)).transpose(2, 0, 1)[None])
