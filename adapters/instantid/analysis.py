"""Finding faces and reading whose they are, as one component: the published pair of networks, or a stand-in.

Networks: scrfd_10g_bnkps.onnx and glintr100.onnx of "antelopev2" (deepinsight/insightface), on onnxruntime.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn

from adapters.instantid.face import TEMPLATE, Faces, Floats, Picture, align, detect, embed
from kit.sessions import OnnxSession
from loader.errors import InputError

EMBEDDING = 512
DETECTOR = "the face detector scrfd_10g_bnkps.onnx"
RECOGNISER = "the face recogniser glintr100.onnx"


class Found(NamedTuple):
    """The faces of a picture, and whose the chosen one is.

    Attributes:
        faces: most certain first, in pixels of the picture.
        chosen: which of them was read.
        embedding: ``[512]`` of the chosen face, not normalised.
    """

    faces: Faces
    chosen: int
    embedding: Floats

    @property
    def box(self) -> Floats:
        """``[4]`` of the chosen face."""
        return self.faces.boxes[self.chosen]

    @property
    def keypoints(self) -> Floats:
        """``[5, 2]`` of the chosen face."""
        return self.faces.keypoints[self.chosen]


class FaceAnalysis(nn.Module):
    """SCRFD and ArcFace on the CPU, beside whatever device the rest runs on.

    Args:
        detector: scrfd_10g_bnkps.onnx.
        recogniser: glintr100.onnx.
        threads: onnxruntime may use.

    Raises:
        WeightsError: a file is not what it should be.
    """

    def __init__(self, detector: Path, recogniser: Path, *, threads: int) -> None:
        super().__init__()
        self.detector = OnnxSession(detector, threads=threads, what=DETECTOR, expects=(1, 9))
        self.recogniser = OnnxSession(recogniser, threads=threads, what=RECOGNISER, expects=(1, 1))

    def forward(self, picture: Picture, name: str, choose: int | None = None) -> Found:
        """Faces of a BGR picture ``[H, W, 3]`` uint8 called ``name``; ``choose`` counts from 0, None is the largest.

        Raises:
            InputError: no face, or not that many.
        """
        faces = detect(picture, self.detector)
        chosen = chosen_face(faces, choose, name)
        return Found(faces, chosen, embed(picture, faces.keypoints[chosen], self.recogniser))


class StandInFaces(nn.Module):
    """No network: the middle of a picture is taken for a face, so that a dry run has one.

    A picture more than twice as wide as high has two, side by side; one that is all of one colour has none. The
    "identity" is a fixed mixture of the pixels there.
    """

    def forward(self, picture: Picture, name: str, choose: int | None = None) -> Found:
        """As ``FaceAnalysis.forward``."""
        height, width = picture.shape[:2]
        count = 0 if float(picture.std()) < 2 else 2 if width > 2 * height else 1
        side = 0.5 * min(height, width / max(1, count))
        centres = [(width * (i + 0.5) / count, height * 0.5) for i in range(count)]
        boxes = np.array([(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y in centres], np.float32)
        template = (np.asarray(TEMPLATE, np.float32) / 112 - 0.5) * side
        points = np.array([template + centre for centre in centres], np.float32)
        scores = np.linspace(0.9, 0.8, count, dtype=np.float32)
        faces = Faces(boxes.reshape(-1, 4), scores, points.reshape(-1, 5, 2))
        chosen = chosen_face(faces, choose, name)
        return Found(faces, chosen, mixture(align(picture, faces.keypoints[chosen])))


def mixture(crop: Picture) -> Floats:
    """``[512]`` that depend on a crop and on nothing else."""
    small = cv2.resize(crop, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).reshape(-1) / 127.5 - 1
    mixing: NDArray[np.float64] = np.random.default_rng(112).standard_normal((EMBEDDING, small.size))
    return (mixing @ small * small.size**-0.5).astype(np.float32)


def chosen_face(faces: Faces, choose: int | None, name: str) -> int:
    """Index of the face to use.

    Raises:
        InputError: no face, or not that many; with what to do.
    """
    if not len(faces):
        raise InputError(
            f"no face was found in {name}: use a picture in which one face is clearly visible, upright and at least "
            "a tenth of its width"
        )
    if choose is None:
        return faces.largest
    if not 0 <= choose < len(faces):
        raise InputError(f"{name} has {len(faces)} face{'s' * (len(faces) != 1)}, there is no face {choose + 1}")
    return choose
