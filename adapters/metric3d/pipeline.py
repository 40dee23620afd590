"""From pictures, or the frames of a clip, to metres on loaded components."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.metric3d.camera import Camera, CameraWish, camera_of
from adapters.metric3d.geometry import Floats, Framing, metric_depth, picture_normals, prepare, to_picture, unpad
from adapters.metric3d.networks import VARIANTS, Prediction, build, load_published
from kit.exif import camera_tags
from kit.images import Picture, open_picture
from kit.video import Clip, Frame, probe_clip, read_frames
from loader.errors import CheckpointMismatchError, InputError, WeightsCorruptError, WeightsError
from loader.outcome import Kept, Step, Unit
from loader.pipeline import Parts, Work
from loader.plan import Plan
from loader.weights import load_component, metadata, open_state

Rgb = NDArray[np.uint8]
SAMPLE = Path(__file__).parents[2] / "assets" / "examples" / "scene_wood.jpg"
OWN_KEYS = ("", "model_state_dict", "state_dict", "model")  # where trainers put the state dict
PREFIX, PARALLEL_PREFIX = "depth_model.", "module."
MAX_ASPECT = 8.0  # beyond it a network input holds fewer than 133 rows of the picture
CLIP_SIDE = 640  # longer side of a clip's depth maps: they are all kept until the colour scale is known
HEADS = ("depth_model.decoder.conv_up_2", "depth_model.decoder.depth_regressor_2")


@dataclass(frozen=True)
class Shot:
    """A picture and the camera that took it."""

    picture: Picture
    camera: Camera


@dataclass(frozen=True)
class DepthRequest:
    """Pictures to measure; ``cloud`` asks for their points to be written too."""

    shots: tuple[Shot, ...]
    cloud: bool = False

    @property
    def items(self) -> int:
        """How many pictures, for predictions."""
        return len(self.shots)


@dataclass(frozen=True)
class ClipRequest:
    """A video to measure: at most ``max_frames`` frames, at most ``fps`` in a second."""

    path: Path
    clip: Clip
    camera: Camera
    fps: float
    max_frames: int
    teaches = False  # its seconds are those of reading frames as well

    @property
    def items(self) -> int:
        """How many frames to expect, as far as the file tells."""
        expected = round(self.clip.seconds * min(self.fps, self.clip.fps or self.fps)) or self.clip.frames
        return max(1, min(self.max_frames, expected))


@dataclass(frozen=True)
class Measured:
    """What a network saw in a picture, kept at the network's resolution; ``depth`` and so on enlarge it when asked.

    Attributes:
        name: of the picture.
        camera: it was measured with.
        framing: how the tensors lie in the picture, without a border.
        canonical: ``[1, 1, h, w]`` fp32.
        certainty: ``[1, 1, h, w]`` fp16, unbounded, higher where surer.
        directions: ``[1, 3, h, w]`` fp16; None from a network without normals.
    """

    name: str
    camera: Camera
    framing: Framing
    canonical: Tensor
    certainty: Tensor
    directions: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.framing.picture_size

    def depth(self, factor: float = 1.0, size: tuple[int, int] | None = None) -> Floats:
        """``[H, W]`` metres along the optical axis, 0..300, all multiplied by ``factor``.

        Here and below, ``size`` is another height and width than the picture's, of the same shape.
        """
        depth = metric_depth(self.canonical, self._framed(size), self.camera.focal_px * factor)
        return np.asarray(depth[0, 0].numpy())

    def confidence(self, size: tuple[int, int] | None = None) -> Floats:
        """``[H, W]``, unbounded, higher where surer."""
        return np.asarray(to_picture(self.certainty.float(), self._framed(size))[0, 0].numpy())

    def normals(self, size: tuple[int, int] | None = None) -> Floats | None:
        """``[3, H, W]``: x right, y down, z away from the camera."""
        if self.directions is None:
            return None
        return np.asarray(picture_normals(self.directions, self._framed(size))[0].numpy())

    def _framed(self, size: tuple[int, int] | None) -> Framing:
        return replace(self.framing, picture_size=size) if size else self.framing


@dataclass(frozen=True)
class MeasuredClip:
    """Depth of a clip's frames.

    Attributes:
        name: of the file.
        size: height and width of the clip.
        camera: it was measured with.
        depths: ``[h, w]`` fp16 metres each, the longer side at most 640.
        seconds: when each is shown.
    """

    name: str
    size: tuple[int, int]
    camera: Camera
    depths: tuple[NDArray[np.float16], ...]
    seconds: tuple[float, ...]


def shot_of(path: Path, wish: CameraWish) -> Shot:
    """A picture file with its camera.

    Raises:
        InputError: no picture, one more than eight times as long as wide, or a camera that cannot be its own.
    """
    picture = open_picture(path)
    return Shot(picture, camera_of(_checked(picture.name, picture.size), wish, camera_tags(path)))


def clip_of(path: Path, wish: CameraWish, *, fps: float, max_frames: int) -> ClipRequest:
    """A video file with its camera.

    Raises:
        InputError: no video, or as ``shot_of``; fewer than one frame is asked for.
    """
    if not fps > 0 or max_frames < 1:
        raise InputError(f"a clip needs at least 1 frame and more than 0 a second, got {max_frames} at {fps:g}")
    clip = probe_clip(path)
    return ClipRequest(path, clip, camera_of(_checked(clip.name, clip.size), wish), fps, max_frames)


def _checked(name: str, size: tuple[int, int]) -> tuple[int, int]:
    aspect = max(size) / min(size)
    if aspect > MAX_ASPECT:
        raise InputError(
            f"{name} is {size[1]}×{size[0]} pixels, {aspect:.1f} times as long as wide; the limit is {MAX_ASPECT:g}: "
            "crop its longer side"
        )
    return size


class Answer(NamedTuple):
    """A network's answer to one picture, fp32 on the CPU, its border cut off."""

    framing: Framing
    depth: Tensor
    confidence: Tensor
    normals: Tensor | None


class Metric3D:
    """See ``loader.pipeline.Pipeline``."""

    own_edges: Mapping[str, tuple[str, ...]] = {"depth_model": HEADS}

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """The network from the plan's file or from the user's own, built as the file's header says."""
        variant = plan.situation.spec.variant(plan.variant)
        path = checkpoint or next(iter(files.values()))
        name, config = network_of(path, str(variant.config.get("variant", variant.name)))
        state = _own_state(path) if checkpoint else open_state(path, key=variant.weights[0].key)
        try:
            return load_component(partial(build, component, name, **config), load_published, component, state)
        except CheckpointMismatchError as error:
            other = _which_variant(state) if checkpoint else None
            if other is None:
                raise
            raise InputError(f"{path.name} is Metric3D {other}, not {name}: choose variant {other}") from error

    def run(self, parts: Parts, request: DepthRequest | ClipRequest) -> Work:
        """Measure in batches of the plan's size."""
        if isinstance(request, ClipRequest):
            return (yield from _run_clip(parts, request))
        shots = request.shots
        if not shots:
            raise InputError("no picture was given: choose one, or one of the examples")
        measured: list[Measured] = []
        while len(measured) < len(shots):
            chunk = shots[len(measured) : len(measured) + parts.plan.batch]
            name = f"pictures {len(measured) + 1} to {len(measured) + len(chunk)} of {len(shots)}"
            answers = yield Unit(name, "depth_model", partial(_predict, parts, [s.picture.rgb for s in chunk]))
            measured += [_measured(shot, answer) for shot, answer in zip(chunk, answers, strict=True)]
            yield Kept("measuring", tuple(measured))
            yield Step("measuring", len(measured), len(shots))
        return tuple(measured)

    def sample(self, plan: Plan) -> DepthRequest:
        """A rendered scene that ships with the project, once for each picture of a batch."""
        return DepthRequest((shot_of(SAMPLE, CameraWish()),) * plan.batch)

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """Mean relative difference of the depths."""
        differences = [
            ((there.canonical - here.canonical).abs() / here.canonical.abs().clamp(min=1e-3)).mean()
            for here, there in zip(reference, outputs, strict=True)
        ]
        return float(torch.stack(differences).mean()) if differences else 0.0


def build_pipeline() -> Metric3D:
    """The adapter's pipeline, as its spec names it."""
    return Metric3D()


# --- running ----------------------------------------------------------------------------------------------------


def _predict(parts: Parts, pictures: Sequence[Rgb], plan: Plan) -> list[Answer]:
    """What the network sees in each picture, in batches the plan in force allows."""
    answers: list[Answer] = []
    for start in range(0, len(pictures), plan.batch):
        prepared = [prepare(rgb, plan.size) for rgb in pictures[start : start + plan.batch]]
        prediction: Prediction = parts.call("depth_model", torch.cat([images for images, _ in prepared]))
        answers += [_answer(prediction, index, framing) for index, (_, framing) in enumerate(prepared)]
    return answers


def _answer(prediction: Prediction, index: int, framing: Framing) -> Answer:
    depth, confidence, normals = (
        None if part is None else unpad(part[index : index + 1].float(), framing).cpu() for part in prediction
    )
    assert depth is not None, "every network gives depth"
    assert confidence is not None, "every network gives confidence"
    borderless = replace(framing, network_size=framing.resized, pads=(0, 0, 0, 0))
    return Answer(borderless, depth, confidence, normals)


def _measured(shot: Shot, answer: Answer) -> Measured:
    normals = answer.normals
    return Measured(
        shot.picture.name,
        shot.camera,
        answer.framing,
        # Copies: slices would keep the network's whole answer alive.
        answer.depth.clone(),
        answer.confidence.half(),
        None if normals is None else normals[:, :3].half(),
    )


def _run_clip(parts: Parts, request: ClipRequest) -> Work:
    frames = read_frames(request.path, fps=request.fps, max_frames=request.max_frames)
    depths: list[NDArray[np.float16]] = []
    seconds: list[float] = []
    for chunk in _chunks(frames, parts):
        name = f"frames {len(depths) + 1} to {len(depths) + len(chunk)}"
        answers = yield Unit(name, "depth_model", partial(_predict, parts, [f.rgb for f in chunk]))
        depths += [_small_depth(request, answer) for answer in answers]
        seconds += [f.seconds for f in chunk]
        yield Kept("measuring", (_clip(request, depths, seconds),))
        yield Step("measuring", len(depths), max(request.items, len(depths)))
    return (_clip(request, depths, seconds),)


def _clip(request: ClipRequest, depths: Sequence[NDArray[np.float16]], seconds: Sequence[float]) -> MeasuredClip:
    return MeasuredClip(request.clip.name, request.clip.size, request.camera, tuple(depths), tuple(seconds))


def _chunks(frames: Iterator[Frame], parts: Parts) -> Iterator[list[Frame]]:
    while chunk := list(islice(frames, parts.plan.batch)):
        yield chunk


def _small_depth(request: ClipRequest, answer: Answer) -> NDArray[np.float16]:
    shrink = min(1.0, CLIP_SIDE / max(request.clip.size))
    height, width = (max(2, round(side * shrink)) for side in request.clip.size)
    framing = replace(answer.framing, picture_size=(height, width))
    depth = metric_depth(answer.depth, framing, request.camera.focal_px)
    return np.asarray(depth[0, 0].numpy()).astype(np.float16)


# --- weights ----------------------------------------------------------------------------------------------------


def network_of(path: Path, default: str) -> tuple[str, dict[str, Any]]:
    """Variant and settings a safetensors file says it was made with; ``default`` where it says none.

    Raises:
        WeightsError: the header's "config" is no JSON object of such settings.
    """
    header = metadata(path)
    said = header.get("config", "{}")
    try:
        config = dict(json.loads(said))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path.name}: its header's config is not a JSON object ({error}): {said[:80]}") from error
    return header.get("variant", default), config


def _own_state(path: Path) -> Mapping[str, Tensor]:
    """A user's checkpoint: a bare state dict, or one under one of the usual keys.

    Raises:
        WeightsError: as ``open_state``, or the file holds no tensors of such a network.
    """
    for key in OWN_KEYS:
        try:
            state = open_state(path, key=key)
        except WeightsCorruptError:
            raise
        except WeightsError:
            continue  # not under this key
        state = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in state.items()}
        if any(name.startswith(PREFIX) for name in state):
            return state
    state = open_state(path)
    raise CheckpointMismatchError(f"{path.name} as a Metric3D network", missing=(f"{PREFIX}…",), unexpected=(*state,))


def _which_variant(state: Mapping[str, Tensor]) -> str | None:
    """The variant whose names and shapes are those of ``state``."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in VARIANTS:
        with torch.device("meta"):
            own = build("depth_model", name).state_dict()
        if {key: tuple(tensor.shape) for key, tensor in own.items()} == shapes:
            return name
    return None
