"""Components with their weights: which files fill which network."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from adapters.aniportrait.interpolator import BlendFrames, open_interpolator
from adapters.aniportrait.landmarker import open_landmarker
from adapters.aniportrait.miniature import miniature
from adapters.aniportrait.networks import COMPONENTS, build, load_published
from adapters.aniportrait.stand_in import StandInFace
from loader.spec import Variant
from loader.weights import load_component, open_state


def load_component_of(component: str, variant: Variant, files: Mapping[str, Path]) -> nn.Module:
    """The component called ``component`` of ``variant``, on the CPU, in its files' precision.

    Raises:
        CheckpointMismatchError: names or shapes differ from the network's.
        WeightsError: a file cannot be read.
    """
    if variant.provenance == "miniature":
        stand_ins: Mapping[str, type[nn.Module]] = {"face_mesh": StandInFace, "interpolator": BlendFrames}
        return stand_ins[component]() if component in stand_ins else miniature(component)
    paths = [files[weights.file] for weights in variant.weights if component in weights.fills]
    if component == "face_mesh":
        return open_landmarker(paths[0])
    if component == "interpolator":
        return open_interpolator(paths[0])
    state: dict[str, Tensor] = {}
    for path in paths:
        # The denoising UNet comes in two files without a name in common.
        state |= open_state(path)
    return load_component(partial(build, component, COMPONENTS[component][0]), load_published, component, state)
