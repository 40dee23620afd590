"""What is timed and weighed for InstantID, at full size with seeded or empty weights: no download is needed.

``python -m bench.identity step [--size 512]`` times one denoising step of IdentityNet and of the denoiser, first as a
script would run it (fp32, contiguous), then as planned here. ``python -m bench.identity load COMPONENT`` writes a file
of the published size, loads it as planned and says how much anonymous memory that took for each byte that was kept.
Run it alone: anything beside it is in the figures.
"""

import argparse
import gc
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapters.instantid import loading
from adapters.instantid.networks import build
from adapters.instantid.spec import SPEC
from loader.folders import Folders
from loader.measure import anonymous_bytes
from loader.place import TORCH_DTYPES, call_guard, place
from loader.plan import Placement, Plan
from loader.plan import plan as plan_for
from loader.probe import probe
from loader.wishes import Wishes

COMPONENTS = ("identity_net", "unet")
LOADABLE = ("identity_net", "text_encoder", "text_encoder_2", "vae")
WIDTH, TOKENS, FACE = 2048, 77, 16
LIMIT = 1.15  # bytes of anonymous memory for a byte that is kept


def seeded(component: str, dtype: torch.dtype) -> nn.Module:
    """A full-size network with small random weights, made in ``dtype`` so that no fp32 copy exists."""
    with torch.device("meta"):
        network = build(component, "sdxl")
    network = network.to(dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.02, 0.02, generator=generator)
    return network


def step_inputs(component: str, size: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What one guided step of one picture of ``size`` × ``size`` gives a network."""
    side = size // 8
    tokens = FACE if component == "identity_net" else TOKENS + FACE
    sizes = torch.tensor([[size, size, 0, 0, size, size]] * 2, dtype=torch.float32)
    keywords: dict[str, Any] = {
        "encoder_hidden_states": torch.randn(2, tokens, WIDTH),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, 1280), "time_ids": sizes},
        "return_dict": False,
    }
    if component == "identity_net":
        keywords["controlnet_cond"] = torch.rand(2, 3, size, size)
    return (torch.randn(2, 4, side, side), 500.0), keywords


def timed(component: str, placement: Placement, size: int, repeats: int) -> float:
    """Seconds of the quickest of ``repeats`` calls after one that warms up."""
    network = place(seeded(component, TORCH_DTYPES[placement.storage_dtype]), placement)
    call = call_guard(network, placement)
    arguments, keywords = step_inputs(component, size)
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call(*arguments, **keywords)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def step(made: Plan, size: int, repeats: int) -> dict[str, Any]:
    """Both networks of a step, one after the other: plain fp32, and as planned."""
    found: dict[str, Any] = {"size": size, "device": made.device}
    for component in COMPONENTS:
        planned = replace(made.component(component), residency="resident", compile="none")
        plain = replace(
            planned, storage_dtype="fp32", compute_dtype="fp32", memory_format="contiguous", keep_fp32=(), fuse=False
        )
        found[component] = {}
        for name, placement in (("fp32, contiguous, eager", plain), ("planned", planned)):
            found[component][name] = round(timed(component, placement, size, repeats), 3)
            gc.collect()
    return found


# --- loading ----------------------------------------------------------------------------------------------------


def hollow_file(path: Path, shapes: Mapping[str, torch.Size]) -> Path:
    """A safetensors file of fp16 zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape.numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    written = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(written)) + written)
        file.truncate(8 + len(written) + end)
    return path


def load(made: Plan, component: str) -> dict[str, Any]:
    """Anonymous memory while a component of real size is loaded and cast as planned."""
    with torch.device("meta"):
        state = build(component, "sdxl").state_dict()
    prefix = "text_model." if component == "text_encoder" else ""
    names = {name if name.startswith("text_model.") else f"{prefix}{name}": t.shape for name, t in state.items()}
    file = next(w.file for w in SPEC.variant(made.variant).weights if w.fills[0] == component)
    with tempfile.TemporaryDirectory() as folder:
        path = hollow_file(Path(folder) / "weights.safetensors", names)
        gc.collect()
        before = anonymous_bytes()
        network = loading.load(component, made, {file: path}, None)
        placement = replace(made.component(component), device="cpu", residency="resident", compile="none")
        network = place(network, placement)
        grown = anonymous_bytes() - before
        kept = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    return {
        "component": component,
        "stored": placement.storage_dtype,
        "file_bytes": sum(2 * shape.numel() for shape in names.values()),
        "kept_bytes": kept,
        "anonymous_bytes": grown,
        "ratio": round(grown / kept, 3),
        "limit": LIMIT,
    }


def main() -> None:
    """Times or weighs, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("step", "load"))
    parser.add_argument("component", nargs="?", choices=LOADABLE, default="text_encoder_2")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", default="sdxl")
    args = parser.parse_args()
    folders = Folders.from_environ(os.environ)
    host = probe(cache_dir=folders.cache, environ=os.environ)
    made = plan_for(SPEC, host, Wishes(variant=args.variant, size=(args.size, args.size), force=True))
    found = step(made, args.size, args.repeats) if args.what == "step" else load(made, args.component)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
