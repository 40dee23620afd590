"""``app.py bench``: times a model's configurations on this machine."""

import argparse
from typing import Any

from adapters import ADAPTERS, adapter
from commands import exits
from kit.sizes import read_size
from loader.errors import InputError


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench", help="time as published, merged, low precision, planned"
    )
    parser.add_argument("adapter", nargs="+", help=", ".join(spec.name for spec in ADAPTERS))
    parser.add_argument("--batch", default="1", help="batch sizes, comma separated (default: 1)")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default: 7)")
    parser.add_argument("--size", help="network input as HEIGHTxWIDTH")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too; the first call takes a minute")
    parser.add_argument("--variant")
    parser.add_argument(
        "--quick", action="store_true", help="times only: no peaks of memory, no limited instruction sets"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    for name in args.adapter:
        adapter(name)
    try:
        batches = tuple(int(word) for word in args.batch.split(","))
    except ValueError as error:
        raise InputError(f"--batch {args.batch}: write sizes as 1,2,4") from error
    from bench.report import Asked, report, show
    from commands.machine import this_machine

    machine = this_machine()
    asked = [
        Asked(
            name,
            args.variant,
            batches,
            args.repeats,
            args.compile,
            read_size(args.size) if args.size else None,
            quick=args.quick,
        )
        for name in args.adapter
    ]
    show(report(asked, machine.host, machine.folders), as_json=args.json)
    return exits.DONE
