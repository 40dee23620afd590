"""What is timed for Hunyuan3D-1: the whole reconstruction at its published size, with seeded weights.

    python -m bench.mesh [--rounds 3] [--json]      everything, in fp32 and in bf16
    python -m bench.mesh --only grid --rounds 5     the grid of 384³ and its surface: time and peak against the aims
    python -m bench.mesh --only mesh                grid, surface, faces, texture, turntable

Seven views of 504 px go through image encoder, triplane transformer and decoder to a mesh. Every round of every
precision is a process of its own; what is printed of each stage is the median of the rounds with their spread, and by
how much memory grew at most. Weights are seeded, which costs the same as trained ones; a seeded field has no surface,
so the grid's distances are replaced by those of a torus before the mesh is made of them. ``--small`` takes the
miniature networks, to try the bench itself.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adapters.hunyuan3d import mesh, texture
from adapters.hunyuan3d.cameras import camera_vectors
from adapters.hunyuan3d.grid import EXTENT
from adapters.hunyuan3d.miniature import CONFIGS, SVRM_SIDE
from adapters.hunyuan3d.modules import FieldDecoder
from adapters.hunyuan3d.networks import build, join_views
from adapters.hunyuan3d.shaping import ROWS_PER_UNIT
from adapters.hunyuan3d.turntable import Skin, Turntable
from bench.apart import apart
from loader.measure import PeakMeter
from loader.packing import pack
from loader.place import TORCH_DTYPES
from loader.quiet import Quiet

SEED, GRID, FACES, VIEWS = 7, 384, 20_000, 7
AIM_SECONDS, AIM_GB = 60.0, 2.5
MIB = 2**20
WHOLE = "reconstruction with its weights"


Only = Literal["all", "mesh", "grid"]
ONLY: tuple[Only, ...] = ("all", "mesh", "grid")


@dataclass(frozen=True)
class Sizes:
    """What networks are built with.

    Attributes:
        view: pixels of a view's side.
        channels: of the triplane.
        side: of the triplane.
        config: other settings, by component.
    """

    view: int
    channels: int
    side: int
    config: Mapping[str, Mapping[str, Any]]


FULL = Sizes(504, 120, 256, {})
TINY = Sizes(SVRM_SIDE, 12, 32, CONFIGS["svrm"])


@dataclass(frozen=True)
class Stage:
    """Seconds of a stage, and by how many MiB the process grew in it beyond what it held before."""

    name: str
    seconds: float
    grown_mib: float
    quiet: bool


def main() -> None:
    """As the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grid", type=int, default=GRID, help=f"points along an axis (default: {GRID})")
    parser.add_argument("--only", choices=ONLY, default="all")
    parser.add_argument("--rounds", type=int, default=1, help="of each precision (default: 1)")
    parser.add_argument("--small", action="store_true", help="the miniature networks, to try the bench itself")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    precisions = ("fp32", "bf16") if args.only == "all" else ("fp32",)
    told: dict[str, list[list[Stage]]] = {dtype: [] for dtype in precisions}
    for _ in range(args.rounds):
        for dtype in precisions:
            told[dtype].append(apart(measure, None, dtype, args.grid, only=args.only, small=args.small))
    rows = {dtype: over_rounds(rounds) for dtype, rounds in told.items()}
    sys.stdout.write((json.dumps(rows, indent=1) if args.json else table(rows)) + "\n")


def measure(dtype: str, grid: int, *, only: Only = "all", small: bool = False) -> list[Stage]:
    """Every stage once, in ``dtype``; the decoder in fp32, as always."""
    stages: list[Stage] = []
    size = TINY if small else FULL
    planes = torch.randn(1, 3, size.channels, size.side, size.side, generator=torch.Generator().manual_seed(SEED))
    if only == "all":
        planes = _timed(stages, WHOLE, lambda: _reconstructed(TORCH_DTYPES[dtype], stages, size))
    decoder = FieldDecoder(_seeded("triplane_decoder", torch.float32, size))  # type: ignore[arg-type]
    with _watched(stages, f"grid {grid}³ and its surface"):
        sdf = _timed(stages, f"grid {grid}³", lambda: _field(decoder, planes, grid))
        _torus_into(sdf)
        found = _timed(stages, "marching cubes and clean-up", lambda: _surface(sdf))
    if only != "grid":
        _shaped(found, stages)
    return stages


def _field(decoder: FieldDecoder, planes: Tensor, grid: int) -> npt.NDArray[np.float32]:
    """The whole grid, a slab at a time as a request makes it."""
    with torch.inference_mode():
        slabs = [
            decoder(planes, size=grid, rows=(first, min(grid, first + ROWS_PER_UNIT)), extent=EXTENT)
            for first in range(0, grid, ROWS_PER_UNIT)
        ]
    return np.concatenate([slab.numpy() for slab in slabs if isinstance(slab, Tensor)])


def _reconstructed(dtype: torch.dtype, stages: list[Stage], size: Sizes) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(VIEWS, 3, size.view, size.view, generator=generator).to(dtype)
    with torch.inference_mode():
        encoder = _timed(stages, "load image encoder", lambda: _seeded("image_encoder", dtype, size))
        tokens = _timed(stages, "image encoder", lambda: join_views(encoder(images, camera_vectors().to(dtype))))
        transformer = _timed(stages, "load triplane transformer", lambda: _seeded("triplane_transformer", dtype, size))
        planes: Tensor = _timed(stages, "triplane transformer", lambda: transformer(tokens))
    return planes.float()


def _shaped(found: mesh.Mesh, stages: list[Stage]) -> None:
    """Faces, texture and turntable of the surface."""
    shape = _timed(stages, f"decimation to {FACES:,} faces", lambda: mesh.decimate(found, FACES))
    atlas = _timed(stages, "atlas", lambda: texture.unwrap(shape))
    pixels = _timed(stages, "texture 1024²", lambda: texture.bake(shape, atlas, lambda points: points / 1.2 + 0.5))
    spun = Turntable(shape, Skin(shape.vertices / 1.2 + 0.5, atlas, pixels))
    spun.picture(0.0)
    _timed(stages, "30 turntable pictures 512²", lambda: list(spun.pictures(30)))


def _surface(sdf: npt.NDArray[np.float32]) -> mesh.Mesh:
    return mesh.outward(mesh.drop_folded(mesh.refine(mesh.to_world(mesh.extract(sdf), len(sdf), EXTENT))))


def _torus_into(sdf: npt.NDArray[np.float32]) -> None:
    ticks = np.linspace(-EXTENT, EXTENT, len(sdf), dtype=np.float32)
    for index, x in enumerate(ticks):
        ring = np.hypot(x, ticks)[:, None] - np.float32(0.35)
        sdf[index] = np.hypot(ring, ticks[None, :]) - np.float32(0.13)


def _seeded(component: str, dtype: torch.dtype, size: Sizes) -> nn.Module:
    """The network, filled parameter by parameter in ``dtype``: nothing is held twice."""
    with torch.device("meta"):
        module = build(component, "svrm", **size.config.get(component, {}))
    module = module.to(dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(SEED)
    for parameter in module.parameters():
        nn.init.normal_(parameter.requires_grad_(False), 0.0, 0.02, generator=generator)
    if dtype != torch.float32:
        pack(module)  # as the plan has it
    return module


def _timed(stages: list[Stage], name: str, work: Callable[[], Any]) -> Any:
    with _watched(stages, name):
        return work()


@contextmanager
def _watched(stages: list[Stage], name: str) -> Iterator[None]:
    with Quiet() as quiet, PeakMeter("cpu") as meter:
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
    stages.append(Stage(name, round(seconds, 2), round(meter.bytes["host"] / MIB, 1), quiet.held))


def over_rounds(rounds: Sequence[Sequence[Stage]]) -> list[dict[str, Any]]:
    """Each stage over all rounds: seconds as median and spread, the most it grew, whether all rounds were quiet."""
    found = []
    for same in zip(*rounds, strict=True):
        seconds = [stage.seconds for stage in same]
        found.append(
            {
                "name": same[0].name,
                "seconds": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
                "grown_mib": max(stage.grown_mib for stage in same),
                "quiet": all(stage.quiet for stage in same),
            }
        )
    return found


def table(rows: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Stages of all precisions side by side as a Markdown table, what bf16 gains, and how the grid meets its aims."""
    names = [stage["name"] for stage in next(iter(rows.values()))]
    head = "| stage | " + " | ".join(f"{dtype} s | {dtype} MiB | {dtype} quiet" for dtype in rows) + " |"
    lines = [head, "|---|" + "---|" * 3 * len(rows)]
    for index, name in enumerate(names):
        lines.append(f"| {name} | " + " | ".join(_cells(rows[dtype][index]) for dtype in rows) + " |")
    whole = next(stage for stage in next(iter(rows.values())) if stage["name"].endswith("and its surface"))
    lines += ["", _aims(whole), *([_gain(rows)] if len(rows) > 1 else [])]
    return "\n".join(lines)


def _cells(stage: Mapping[str, Any]) -> str:
    seconds = stage["seconds"]
    spread = f" ({seconds['min']:.2f} to {seconds['max']:.2f})" if seconds["max"] > seconds["min"] else ""
    return f"{seconds['median']:.2f}{spread} | {stage['grown_mib']} | {'yes' if stage['quiet'] else 'no'}"


def _aims(whole: Mapping[str, Any]) -> str:
    seconds, gigabytes = whole["seconds"]["median"], whole["grown_mib"] * MIB / 1e9
    return (
        f"{whole['name']}: {seconds:.1f} s, {gigabytes:.2f} GB; the aims of 384³ are {AIM_SECONDS:g} s on 2 cores and "
        f"{AIM_GB:g} GB."
    )


def _gain(rows: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    def seconds(dtype: str) -> float:
        networks = ("image encoder", "triplane transformer")
        return float(sum(stage["seconds"]["median"] for stage in rows[dtype] if stage["name"] in networks))

    def grown(dtype: str) -> float:
        return float(next(stage["grown_mib"] for stage in rows[dtype] if stage["name"] == WHOLE))

    faster, smaller = seconds("fp32") / seconds("bf16"), grown("bf16") / grown("fp32")
    return f"Reconstruction in bf16: {faster:.2f} times as fast as fp32, {smaller:.2f} of its memory."


if __name__ == "__main__":
    main()
