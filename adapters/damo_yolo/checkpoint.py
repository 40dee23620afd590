"""A user's own weights: which file of a folder, and what is in it under which key."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from adapters.damo_yolo.networks import VARIANTS, build
from loader.errors import CheckpointMismatchError, InputError, WeightsCorruptError, WeightsError
from loader.weights import open_state

CLASS_BIAS = "head.gfl_cls.0.bias"
# Training scripts wrap the state dict under one of these; a bare one comes last.
STATE_KEYS = ("model", "state_dict", "")
PARALLEL_PREFIX = "module."
FOLDER_KINDS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# ModelScope describes a model by these files; one of them names the weights.
DESCRIPTIONS = ("configuration.json", "damoyolo.py")


def weights_file(checkpoint: Path) -> Path:
    """The file of weights a user means: the file itself, or the one in a folder as ModelScope lays it out.

    Raises:
        InputError: a folder without weights, or with several of which its description names none or more than one.
    """
    if not checkpoint.is_dir():
        return checkpoint
    candidates = sorted(path for path in checkpoint.iterdir() if path.suffix.lower() in FOLDER_KINDS)
    if not candidates:
        raise InputError(
            f"the folder {checkpoint.name} holds no weights ({', '.join(FOLDER_KINDS)}): name the file itself"
        )
    if len(candidates) > 1:
        described = "\n".join(
            (checkpoint / name).read_text(encoding="utf-8", errors="replace")
            for name in DESCRIPTIONS
            if (checkpoint / name).is_file()
        )
        named = [path for path in candidates if path.name in described]
        if len(named) != 1:
            listed = ", ".join(path.name for path in candidates)
            raise InputError(f"the folder {checkpoint.name} holds {len(candidates)} checkpoints ({listed}): name one")
        return named[0]
    return candidates[0]


def own_state(path: Path) -> Mapping[str, Tensor]:
    """The detector's tensors of a user's checkpoint, bare or under a usual key, without a parallel run's prefix.

    Raises:
        CheckpointMismatchError: it holds tensors, but not a detector's.
        WeightsError: as ``loader.weights.open_state``.
    """
    problem: WeightsError | None = None
    for key in STATE_KEYS:
        try:
            state = open_state(path, key=key)
        except WeightsCorruptError:
            raise
        except WeightsError as error:
            problem = error
            continue
        state = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in state.items()}
        if CLASS_BIAS in state:
            return state
        problem = CheckpointMismatchError(f"{path.name} as a DAMO-YOLO detector", missing=(CLASS_BIAS,))
        if key:
            break
    assert problem is not None, "every key either opened or failed"
    raise problem


def class_count(state: Mapping[str, Tensor], path: Path) -> int:
    """Columns of the scores.

    Raises:
        CheckpointMismatchError: not a detector's checkpoint.
    """
    if CLASS_BIAS not in state:
        raise CheckpointMismatchError(f"{path.name} as a DAMO-YOLO detector", missing=(CLASS_BIAS,))
    return int(state[CLASS_BIAS].shape[0])


def which_variant(state: Mapping[str, Tensor], classes: int) -> str | None:
    """The variant whose names and shapes are those of ``state``."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in VARIANTS:
        with torch.device("meta"):
            own = build("detector", name, num_classes=classes).state_dict()
        if {key: tuple(tensor.shape) for key, tensor in own.items()} == shapes:
            return name
    return None
