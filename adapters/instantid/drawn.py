"""What comes of a request: the faces of a photo, and finished pictures with what made them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.instantid.face import Faces
from adapters.instantid.requests import Settings
from loader.plan import Plan
from loader.spec import Size, Variant

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FoundFaces:
    """Faces of a photo, in its own pixels, most certain first.

    Attributes:
        chosen: the one that is used, the largest unless another was asked for.
        stand_in: nothing was recognised: a dry run takes the middle of the picture.
    """

    name: str
    faces: Faces
    chosen: int
    embedding: NDArray[np.float32]
    stand_in: bool

    @property
    def box(self) -> NDArray[np.float32]:
        return self.faces.boxes[self.chosen]

    @property
    def keypoints(self) -> NDArray[np.float32]:
        return self.faces.keypoints[self.chosen]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A finished picture.

    Attributes:
        rgb: ``[H, W, 3]`` uint8, without a label.
        seed: its own.
        prompt: its own, as given, without the style.
        settings: of the request.
        steps: denoising steps of a whole drawing.
        guidance, scheduler: what was used where the settings leave it open.
        faces: of the first photo.
        shape: the picture that gave shape and pose, at this size.
    """

    rgb: Rgb
    seed: int
    prompt: str
    settings: Settings
    steps: int
    guidance: float
    scheduler: str
    faces: FoundFaces
    shape: Rgb

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.rgb.shape[0], self.rgb.shape[1]


def variant_of(plan: Plan) -> Variant:
    """The variant a plan runs."""
    return plan.situation.spec.variant(plan.variant)


def guidance_of(plan: Plan, settings: Settings) -> float:
    """The settings' guidance, or the variant's own."""
    return default_guidance(variant_of(plan)) if settings.guidance is None else settings.guidance


def scheduler_of(plan: Plan, settings: Settings) -> str:
    """The settings' scheduler, or the variant's own."""
    return default_scheduler(variant_of(plan)) if settings.scheduler is None else settings.scheduler


def default_guidance(variant: Variant) -> float:
    """5, as the demos; 1.5 with LCM's weights, which have guidance in them."""
    return 1.5 if variant.config.get("lcm") else 5.0


def default_scheduler(variant: Variant) -> str:
    """Euler, or LCM's own with its weights."""
    return "lcm" if variant.config.get("lcm") else "euler"
