"""The wishes as options: the same names as on the page and in the plan."""

import argparse
from typing import Any

from kit.sizes import read_size
from loader.errors import InputError
from loader.host import Dtype
from loader.wishes import COMPILE_MODES, DTYPES, RESIDENCIES, Wishes


def add(parser: argparse.ArgumentParser) -> None:
    """Add every wish to a command."""
    group = parser.add_argument_group("wishes (left out: decided for you)")
    group.add_argument("--device", help="cpu, cuda:0, mps, xpu:0")
    group.add_argument(
        "--dtype", action="append", default=[], help="fp32, fp16, bf16, int8; or COMPONENT=DTYPE, repeatable"
    )
    group.add_argument("--variant", help="which network")
    group.add_argument("--size", help="network input as HEIGHTxWIDTH")
    group.add_argument("--batch", type=int)
    group.add_argument("--steps", type=int)
    group.add_argument("--frames", type=int)
    group.add_argument("--residency", choices=RESIDENCIES, help="save memory: the highest state allowed")
    group.add_argument("--compile", choices=COMPILE_MODES)
    group.add_argument("--precision-first", action="store_true", help="fp32 wherever it fits")
    group.add_argument("--max-drift", type=float, help="largest distance from fp32, in the model's own metric")
    group.add_argument("--allow-smaller", action="store_true", help="a smaller variant or size may be used")
    group.add_argument("--force", action="store_true", help="try what the plan would refuse")


def read(args: Any) -> Wishes:
    """The wishes among parsed arguments.

    Raises:
        InputError: a dtype or size that cannot be read.
    """
    whole: Dtype | None = None
    named: dict[str, Dtype] = {}
    for item in args.dtype:
        component, _, dtype = item.rpartition("=")
        if dtype not in DTYPES:
            raise InputError(f"--dtype {item}: choose {', '.join(DTYPES)}, or COMPONENT=DTYPE")
        if component:
            named[component] = dtype
        else:
            whole = dtype
    return Wishes(
        device=args.device,
        dtype=whole,
        component_dtype=named,
        variant=args.variant,
        size=read_size(args.size) if args.size else None,
        batch=args.batch,
        steps=args.steps,
        frames=args.frames,
        residency=args.residency,
        compile=args.compile,
        precision_first=args.precision_first,
        max_drift=args.max_drift,
        allow_smaller=args.allow_smaller,
        force=args.force,
    )
