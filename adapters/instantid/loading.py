"""Each component of InstantID with its weights: from published files, or a seeded miniature."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from adapters.instantid.analysis import FaceAnalysis, StandInFaces
from adapters.instantid.codec import LatentCodec
from adapters.instantid.drawn import variant_of
from adapters.instantid.lora import merge_lora
from adapters.instantid.networks import build, load_published
from adapters.instantid.networks.miniature import miniature
from loader.errors import InputError
from loader.plan import Plan
from loader.spec import Variant
from loader.weights import load_component, open_state

IP_ADAPTER = "InstantID/ip-adapter.bin"
DETECTOR_FILE, RECOGNISER_FILE = "scrfd_10g_bnkps.onnx", "glintr100.onnx"
LORA_FILE = "pytorch_lora_weights.safetensors"
CONTROL_NETS = ("identity_net", "pose_net", "canny_net", "depth_net")


def load(component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
    """A component of the plan's variant, on the CPU, in its file's precision.

    Raises:
        InputError: a file of the user's own was given.
        WeightsError: a file is damaged or is another network's.
    """
    if checkpoint is not None:
        raise InputError(
            f"{checkpoint.name} cannot take the place of InstantID's weights, which are {len(_files(plan))} files: put "
            "your own under the same names into the models folder (see `python app.py doctor`)"
        )
    variant = variant_of(plan)
    if component == "face_analysis":
        return _face_analysis(variant, files)
    tiny = variant.provenance == "miniature"
    network = miniature(component) if tiny else _published(component, variant, files)
    return LatentCodec(network) if component == "vae" else network  # type: ignore[arg-type]  # it is one


def _files(plan: Plan) -> tuple[str, ...]:
    return tuple(weights.file for weights in variant_of(plan).weights)


def file_for(component: str, variant: Variant, files: Mapping[str, Path]) -> Path:
    """The file that a component's own weights lie in: the first that fills it before any other."""
    named = next(weights.file for weights in variant.weights if weights.fills[0] == component)
    return files[named]


def _face_analysis(variant: Variant, files: Mapping[str, Path]) -> nn.Module:
    if variant.provenance == "miniature":
        return StandInFaces()
    return FaceAnalysis(files[DETECTOR_FILE], files[RECOGNISER_FILE], threads=torch.get_num_threads())


def _published(component: str, variant: Variant, files: Mapping[str, Path]) -> nn.Module:
    kind = "identity_net" if component in CONTROL_NETS else component
    make = partial(build, kind, "sdxl")
    path = file_for(component, variant, files)
    if component == "unet":
        face = open_state(files[IP_ADAPTER], key="ip_adapter")
        network = load_component(make, partial(_fill_unet, face), kind, open_state(path))
        for name in (name for name in files if name.endswith(LORA_FILE)):
            merge_lora(network, open_state(files[name]), what=f"instantid {name}")
        return network
    key = "image_proj" if component == "face_projection" else ""
    return load_component(make, load_published, kind, open_state(path, key=key))


def _fill_unet(face: Mapping[str, Tensor], network: nn.Module, component: str, state: Mapping[str, Tensor]) -> None:
    load_published(network, component, state)
    load_published(network, "ip_adapter", face)
