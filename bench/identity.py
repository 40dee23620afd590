"""What is timed and weighed for InstantID, at full size with seeded or empty weights: no download is needed.

``python -m bench.identity step --size 512 --rounds 5`` times one denoising step of IdentityNet and of the denoiser,
first as a script would run it (fp32, contiguous, eager), then as planned here; ``--small`` takes the miniature
networks, to try the bench itself. ``python -m bench.identity load vae identity_net`` writes files of the published
size, loads each component as planned in a process of its own and says how much anonymous memory that took for each
byte that was kept; ``--narrow`` takes a third of the published widths. Both print a Markdown table, or JSON. Run them
alone: anything beside them is in the figures.
"""

import argparse
import gc
import json
import os
import struct
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from adapters.instantid import loading
from adapters.instantid.networks import build
from adapters.instantid.networks.attention import face_layers
from adapters.instantid.networks.miniature import CONFIGS
from adapters.instantid.spec import SPEC
from bench.apart import apart
from bench.timing import Times, interleaved
from loader.folders import Folders
from loader.measure import PeakMeter, anonymous_bytes
from loader.place import TORCH_DTYPES, call_guard, place
from loader.plan import Placement, Plan
from loader.plan import plan as plan_for
from loader.probe import probe
from loader.process import return_freed_memory
from loader.wishes import Wishes

PAIR = ("identity_net", "unet")
LOADABLE = ("vae", "identity_net", "unet", "text_encoder", "text_encoder_2", "face_projection")
TOKENS, FACE = 77, 16
LIMIT = 1.15  # bytes of anonymous memory for a byte that is kept
SEED, SPREAD = 7, 0.02
PLAIN, PLANNED = "fp32 contiguous eager", "planned"
# A third of the published widths, and a tenth of the bytes.
NARROW: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "block_out_channels": (96, 192, 384),
        "attention_head_dim": (3, 6, 12),
        "cross_attention_dim": 640,
    },
    "vae": {"block_out_channels": (64, 128, 256, 256)},
}

Row = dict[str, Any]


def made_plan(size: int, variant: str = "sdxl") -> Plan:
    """What this machine would do at ``size`` × ``size``."""
    folders = Folders.from_environ(os.environ)
    host = probe(cache_dir=folders.cache, environ=os.environ)
    return plan_for(SPEC, host, Wishes(variant=variant, size=(size, size), force=True))


# --- a step -----------------------------------------------------------------------------------------------------


def seeded(component: str, dtype: torch.dtype, *, small: bool) -> nn.Module:
    """A network with small random weights, made in ``dtype`` so that no fp32 copy exists."""
    with torch.device("meta"):
        network = build(component, "sdxl", **(CONFIGS[component][1] if small else {}))
    # Not the library's own ``to``, which warns of parts it would rather keep in fp32 even where there are none.
    network = nn.Module.to(network, dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-SPREAD, SPREAD, generator=generator)
    return network


def step_inputs(component: str, network: nn.Module, size: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What one guided step of one picture of ``size`` × ``size`` gives a network."""
    config: Any = network.config
    side = size // 8
    tokens = FACE if component == "identity_net" else TOKENS + FACE
    sizes = torch.tensor([[size, size, 0, 0, size, size]] * 2, dtype=torch.float32)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    keywords: dict[str, Any] = {
        "encoder_hidden_states": torch.randn(2, tokens, config.cross_attention_dim),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, pooled), "time_ids": sizes},
        "return_dict": False,
    }
    if component == "identity_net":
        keywords["controlnet_cond"] = torch.rand(2, 3, size, size)
    return (torch.randn(2, 4, side, side), 500.0), keywords


def timed(component: str, placement: Placement, size: int, rounds: int, *, small: bool) -> tuple[Times, int]:
    """Seconds of each of ``rounds`` calls after one that warms up, and what the process held at most in bytes."""
    gc.collect()
    return_freed_memory()
    before = anonymous_bytes()
    network = place(seeded(component, TORCH_DTYPES[placement.storage_dtype], small=small), placement)
    loaded = max(0, anonymous_bytes() - before)
    arguments, keywords = step_inputs(component, network, size)
    call = partial(call_guard(network, placement), *arguments, **keywords)
    with PeakMeter(placement.device) as meter:
        times = interleaved({component: call}, rounds, warm_up=1)[component]
    return times, meter.bytes["device"] or loaded + meter.bytes["host"]


def step(made: Plan, size: int, rounds: int, *, small: bool = False) -> list[Row]:
    """Both networks of a step, one after the other: plain fp32, and as planned."""
    rows: list[Row] = []
    for component in PAIR:
        planned = replace(made.component(component), residency="resident", compile="none")
        plain = replace(
            planned,
            storage_dtype="fp32",
            compute_dtype="fp32",
            memory_format="contiguous",
            attention="sdpa",
            keep_fp32=(),
            fuse=False,
            packed=False,
        )
        first = 0.0
        for name, placement in ((PLAIN, plain), (PLANNED, planned)):
            times, peak = timed(component, placement, size, rounds, small=small)
            first = first or times.median
            rows.append(
                {
                    "component": component,
                    "config": name,
                    "placed": f"{placement.compute_dtype}, {placement.memory_format}, {placement.attention}",
                    "size": [size, size],
                    "seconds": {"min": times.min, "median": times.median, "max": max(times.seconds)},
                    "speed_up": round(first / times.median, 2),
                    "peak_bytes": peak,
                    "quiet": times.quiet,
                }
            )
    return rows


def step_table(rows: Sequence[Row]) -> str:
    """Rows of ``step`` as Markdown."""
    lines = [
        "| network | configuration | s min | s median | s max | speed-up | peak MiB | quiet |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = row["seconds"]
        lines.append(
            f"| {row['component']} | {row['config']}: {row['placed']} | {seconds['min']:.3f} | {seconds['median']:.3f} "
            f"| {seconds['max']:.3f} | {row['speed_up']}× | {row['peak_bytes'] / 2**20:.0f} "
            f"| {'yes' if row['quiet'] else 'no'} |"
        )
    height, width = rows[0]["size"]
    return "\n".join([*lines, "", f"One guided step of one picture of {height}×{width}, random weights."])


# --- loading ----------------------------------------------------------------------------------------------------


def hollow_file(path: Path, shapes: Mapping[str, torch.Size], itemsize: int = 2) -> Path:
    """A safetensors file of zeros, fp16 or fp32, that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = itemsize * shape.numel()
        header[name] = {"dtype": f"F{8 * itemsize}", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    written = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(written)) + written)
        file.truncate(8 + len(written) + end)
    return path


def _hollow_adapter(path: Path, faces: Mapping[str, Tensor]) -> Path:
    """``ip-adapter.bin`` as it is published: fp32, here without its values."""
    with torch.serialization.skip_data():
        empty = {name: torch.empty(tensor.shape) for name, tensor in faces.items()}
        torch.save({"image_proj": {}, "ip_adapter": empty}, path)
    return path


def _file_of(made: Plan, component: str) -> tuple[str, int]:
    """A component's own file, and whether it has two or four bytes a value."""
    variant = SPEC.variant(made.variant)
    weights = next(w for w in variant.weights if w.fills[0] == component)
    values = next(c for c in variant.components if c.name == component).n_params
    return weights.file, 4 if weights.bytes > 3 * values else 2


def load(component: str, *, narrow: bool = False, size: int = 512) -> Row:
    """Anonymous memory while a component is loaded from a file of the published layout and cast as planned."""
    made = made_plan(size)
    config = NARROW.get(component, {}) if narrow else {}
    with torch.device("meta"):
        network = build(component, "sdxl", **config)
    prefix = "text_model." if component == "text_encoder" else ""
    names = {
        name if name.startswith("text_model.") else f"{prefix}{name}": tensor.shape
        for name, tensor in network.state_dict().items()
        if ".attn2.processor." not in name
    }
    file, itemsize = _file_of(made, component)
    placement = replace(made.component(component), device="cpu", residency="resident", compile="none")
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(loading, "build", partial(build, **config)):
        files = {file: hollow_file(Path(folder) / "weights.safetensors", names, itemsize)}
        if component == "unet":
            faces = face_layers(network).state_dict()  # type: ignore[arg-type]  # it is one
            files[loading.IP_ADAPTER] = _hollow_adapter(Path(folder) / "ip-adapter.bin", faces)
        gc.collect()
        return_freed_memory()
        before = anonymous_bytes()
        with PeakMeter("cpu") as meter:
            loaded = place(loading.load(component, made, files, None), placement)
            grown = anonymous_bytes() - before
        kept = sum(t.numel() * t.element_size() for t in (*loaded.parameters(), *loaded.buffers()))
    return {
        "component": component,
        "narrow": narrow,
        "stored": placement.storage_dtype,
        "layout": placement.memory_format,
        "file_bytes": itemsize * sum(shape.numel() for shape in names.values()),
        "kept_bytes": kept,
        "anonymous_bytes": grown,
        "peak_bytes": max(grown, meter.bytes["host"]),
        "ratio": round(max(grown, meter.bytes["host"]) / kept, 3),
        "limit": LIMIT,
    }


def load_table(rows: Sequence[Row]) -> str:
    """Rows of ``load`` as Markdown."""
    lines = [
        "| component | kept as | file MB | kept MB | grown MB | peak MB | peak over kept | aim |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        megabytes = (f"{row[name] / 1e6:.0f}" for name in ("file_bytes", "kept_bytes", "anonymous_bytes", "peak_bytes"))
        name = row["component"] + (", a third as wide" if row["narrow"] else "")
        lines.append(
            f"| {name} | {row['stored']}, {row['layout']} | {' | '.join(megabytes)} | {row['ratio']} | {row['limit']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """As the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    kinds = parser.add_subparsers(dest="what", required=True)
    steps = kinds.add_parser("step", help="time one denoising step, plain and as planned")
    steps.add_argument("--size", type=int, default=512)
    steps.add_argument("--rounds", type=int, default=5)
    steps.add_argument("--small", action="store_true", help="the miniature networks, to try the bench itself")
    loads = kinds.add_parser("load", help="weigh what loading takes")
    loads.add_argument("components", nargs="*", metavar="COMPONENT", help=", ".join(LOADABLE))
    loads.add_argument("--narrow", action="store_true", help="a third of the published widths (unet, vae)")
    args = parser.parse_args()
    if args.what == "step":
        made = made_plan(args.size, "miniature" if args.small else "sdxl")
        rows = step(made, args.size, args.rounds, small=args.small)
        shown = step_table(rows)
    else:
        unknown = [name for name in args.components if name not in LOADABLE]
        if unknown:
            parser.error(f"no component {unknown[0]}: {', '.join(LOADABLE)}")
        wanted = args.components or ("vae", "identity_net")
        rows = [apart(load, None, component, narrow=args.narrow) for component in wanted]
        shown = load_table(rows)
    sys.stdout.write((json.dumps(rows, indent=1) if args.json else shown) + "\n")


if __name__ == "__main__":
    main()
