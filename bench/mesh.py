"""What is timed for Hunyuan3D-1: the whole reconstruction at its published size, with seeded weights.

``python -m bench.mesh`` runs seven views of 504 px through image encoder, triplane transformer and decoder to a mesh,
in fp32 and in bf16, one after the other in processes of their own, and prints seconds and the growth of memory of every
stage. Weights are seeded, which costs the same as trained ones; a seeded field has no surface, so the grid's distances
are replaced by those of a torus before the mesh is made of them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adapters.hunyuan3d import mesh, texture
from adapters.hunyuan3d.cameras import camera_vectors
from adapters.hunyuan3d.grid import EXTENT
from adapters.hunyuan3d.modules import FieldDecoder
from adapters.hunyuan3d.networks import build, join_views
from adapters.hunyuan3d.turntable import Skin, Turntable
from loader.measure import PeakMeter
from loader.place import TORCH_DTYPES
from loader.quiet import Quiet

SEED, GRID, FACES, SIDE, VIEWS = 7, 384, 20_000, 504, 7
MIB = 2**20
WHOLE = "reconstruction with its weights"


@dataclass(frozen=True)
class Stage:
    """Seconds of a stage, and by how many MiB the process grew in it beyond what it held before."""

    name: str
    seconds: float
    grown_mib: float
    quiet: bool


def main() -> None:
    """Measure each precision in a process of its own, so that none finds the other's memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="only this one, and print JSON")
    parser.add_argument("--grid", type=int, default=GRID)
    parser.add_argument("--only-mesh", action="store_true", help="only grid, mesh, texture and turntable")
    args = parser.parse_args()
    if args.dtype:
        json.dump([asdict(stage) for stage in measure(args.dtype, args.grid, only_mesh=args.only_mesh)], sys.stdout)
        return
    rows: dict[str, list[dict[str, Any]]] = {}
    for dtype in ("fp32",) if args.only_mesh else ("fp32", "bf16"):
        command = [sys.executable, "-m", "bench.mesh", "--dtype", dtype, "--grid", str(args.grid)]
        done = subprocess.run(
            [*command, *(["--only-mesh"] if args.only_mesh else [])], stdout=subprocess.PIPE, check=True
        )
        rows[dtype] = json.loads(done.stdout)
    sys.stdout.write(table(rows) + "\n")


def measure(dtype: str, grid: int, *, only_mesh: bool = False) -> list[Stage]:
    """Every stage once, in ``dtype``; the decoder in fp32, as always."""
    stages: list[Stage] = []
    planes = torch.randn(1, 3, 120, 256, 256, generator=torch.Generator().manual_seed(SEED))
    if not only_mesh:
        planes = _timed(stages, WHOLE, lambda: _reconstructed(TORCH_DTYPES[dtype], stages))
    decoder = FieldDecoder(_seeded("triplane_decoder", torch.float32))  # type: ignore[arg-type]
    with torch.inference_mode():
        sdf = _timed(stages, f"grid {grid}³", lambda: decoder(planes, size=grid, rows=(0, grid), extent=EXTENT))
    assert isinstance(sdf, Tensor), "a grid of distances"
    _shaped(sdf.numpy(), stages)
    return stages


def _reconstructed(dtype: torch.dtype, stages: list[Stage]) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(VIEWS, 3, SIDE, SIDE, generator=generator).to(dtype)
    with torch.inference_mode():
        encoder = _timed(stages, "load image encoder", lambda: _seeded("image_encoder", dtype))
        tokens = _timed(stages, "image encoder", lambda: join_views(encoder(images, camera_vectors().to(dtype))))
        transformer = _timed(stages, "load triplane transformer", lambda: _seeded("triplane_transformer", dtype))
        planes: Tensor = _timed(stages, "triplane transformer", lambda: transformer(tokens))
    return planes.float()


def _shaped(sdf: npt.NDArray[np.float32], stages: list[Stage]) -> None:
    """Mesh, texture and turntable of a torus on the grid; the seeded field's own values are overwritten."""
    _torus_into(sdf)
    found = _timed(stages, "marching cubes and clean-up", lambda: _surface(sdf))
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


def _seeded(component: str, dtype: torch.dtype) -> nn.Module:
    """The published network, filled parameter by parameter in ``dtype``: nothing is held twice."""
    with torch.device("meta"):
        module = build(component, "svrm")
    module = module.to(dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(SEED)
    for parameter in module.parameters():
        nn.init.normal_(parameter.requires_grad_(False), 0.0, 0.02, generator=generator)
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


def table(rows: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Stages of all precisions side by side as a Markdown table, and what bf16 gains."""
    names = [stage["name"] for stage in next(iter(rows.values()))]
    head = "| stage | " + " | ".join(f"{dtype} s | {dtype} MiB | {dtype} quiet" for dtype in rows) + " |"
    lines = [head, "|---|" + "---|" * 3 * len(rows)]
    for index, name in enumerate(names):
        cells = [rows[dtype][index] for dtype in rows]
        shown = (f"{c['seconds']} | {c['grown_mib']} | {'yes' if c['quiet'] else 'no'}" for c in cells)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    if len(rows) > 1:
        lines += ["", _gain(rows)]
    return "\n".join(lines)


def _gain(rows: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    def total(dtype: str, figure: str, *names: str) -> float:
        return float(sum(stage[figure] for stage in rows[dtype] if stage["name"] in names))

    networks = ("image encoder", "triplane transformer")
    faster = total("fp32", "seconds", *networks) / total("bf16", "seconds", *networks)
    smaller = total("bf16", "grown_mib", WHOLE) / total("fp32", "grown_mib", WHOLE)
    return f"Reconstruction in bf16: {faster:.2f} times as fast as fp32, {smaller:.2f} of its memory."


if __name__ == "__main__":
    main()
