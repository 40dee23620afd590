"""Frames between two others by a network: FILM (Reda et al., arXiv 2202.04901), as TorchScript.

The published file is a program, not only weights: opening it runs code. It is therefore a variant of its own whose
terms have to be accepted, is kept under the checksum of its first download, and is opened nowhere but here.
"""

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from loader.errors import WeightsCorruptError

MULTIPLE = 64  # sides are padded to it: the network halves them six times


class Interpolator(nn.Module):
    """A scripted network behind the call of a component, fp32.

    Args:
        script: ``(before, after [B, 3, H, W], time [B, 1]) -> [B, 3, H, W]``, values 0..1.
    """

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, before: Tensor, after: Tensor, time: Tensor) -> Tensor:
        """The picture at ``time`` (0..1) between two; pictures of any size, which upstream's call does not take."""
        height, width = before.shape[-2:]
        below, right = -height % MULTIPLE, -width % MULTIPLE
        if not (below or right):
            return self.script(before, after, time)
        padded = (nn.functional.pad(picture, (0, right, 0, below), mode="replicate") for picture in (before, after))
        return self.script(*padded, time)[..., :height, :width]


class BlendFrames(nn.Module):
    """A stand-in without weights: cross-fades. Whoever uses it has to say so."""

    def forward(self, before: Tensor, after: Tensor, time: Tensor) -> Tensor:
        """As of ``Interpolator``."""
        return before + (after - before) * time[:, :, None, None]


def open_interpolator(path: Path) -> Interpolator:
    """The network of a TorchScript file, on the CPU in fp32.

    Raises:
        WeightsCorruptError: not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsCorruptError(f"{path.name} is no TorchScript file ({error}): fetch it again") from error
    if not scripted:
        raise WeightsCorruptError(f"{path.name} holds no TorchScript program: give the published file")
    try:
        with warnings.catch_warnings():
            # torch wants programs to be exported anew; this one is published as it is.
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        words = str(error).strip().splitlines()[0][:200]
        raise WeightsCorruptError(f"{path.name} cannot be opened ({words}): fetch it again") from error
    return Interpolator(script.float())
