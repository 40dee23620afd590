"""``app.py bench``: times a model's configurations on this machine."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import ADAPTERS, adapter
from commands import exits
from kit.sizes import read_size
from loader.errors import InputError

if TYPE_CHECKING:
    from bench.rows import Asked

MAX_BATCH, MAX_ROUNDS, CHART_ROUNDS = 64, 1000, 5


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench", help="time as published, merged, low precision, compiled, planned"
    )
    parser.add_argument("adapter", nargs="+", help=", ".join(spec.name for spec in ADAPTERS))
    parser.add_argument("--batch", default="1", help="batch sizes, comma separated (default: 1)")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default: 7)")
    parser.add_argument("--size", help="network input as HEIGHTxWIDTH")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too; the first call takes a minute")
    parser.add_argument("--peers", action="store_true", help="time ONNX Runtime and OpenVINO too, in turn with ours")
    parser.add_argument("--variant")
    parser.add_argument("--no-limits", action="store_true", help="not under limited instruction sets again")
    parser.add_argument("--quick", action="store_true", help="times only: no peaks of memory, nothing limited")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", type=Path, action="append", default=[], metavar="FILE", help="as .json, .csv or .md")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a page with the machine and the command")
    parser.add_argument("--charts", action="store_true", help="with --markdown: charts as SVG in charts beside it")
    # For the page, which runs this command: see bench.session.
    parser.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    asked = [_asked(name, args) for name in args.adapter]
    from bench.lines import speaking
    from bench.report import report, save, save_page, show
    from commands.machine import this_machine
    from loader.process import limit_threads

    machine = this_machine()
    limit_threads(machine.host.cpu.cores)
    if args.lines:
        return speaking(lambda tell: report(asked, machine.host, machine.folders, tell))
    found = report(asked, machine.host, machine.folders)
    for path in args.save:
        save(found, path)
    if args.markdown is not None:
        save_page(found, args.markdown, command_of(args), charts=args.charts)
    show(found, as_json=args.json)
    return exits.DONE


def _asked(name: str, args: Any) -> "Asked":
    """What to measure of one adapter.

    Raises:
        InputError: a word that does not fit.
    """
    from bench.rows import Asked

    adapter(name)
    if args.charts and args.markdown is None:
        raise InputError("--charts goes with --markdown FILE")
    if args.charts and args.repeats < CHART_ROUNDS:
        raise InputError(
            f"--repeats {args.repeats}: a chart shows a spread, which takes at least {CHART_ROUNDS} rounds"
        )
    if not 1 <= args.repeats <= MAX_ROUNDS:
        raise InputError(f"--repeats {args.repeats}: from 1 to {MAX_ROUNDS}")
    wrong = [str(path) for path in args.save if path.suffix not in (".json", ".csv", ".md")]
    if wrong:
        raise InputError(f"--save {', '.join(wrong)}: end the name with .json, .csv or .md")
    return Asked(
        name,
        args.variant,
        _batches(args.batch),
        args.repeats,
        args.compile,
        read_size(args.size) if args.size else None,
        peaks=not args.quick,
        limits=not args.quick and not args.no_limits,
        peers=args.peers,
    )


def _batches(words: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(word) for word in words.split(","))
    except ValueError as error:
        raise InputError(f"--batch {words}: write sizes as 1,2,4") from error
    if not all(1 <= batch <= MAX_BATCH for batch in batches):
        raise InputError(f"--batch {words}: each from 1 to {MAX_BATCH}")
    return tuple(dict.fromkeys(batches))


def command_of(args: Any) -> str:
    """The command that gives the same rows again, without where they were written."""
    words = ["python", "app.py", "bench", *args.adapter]
    for option in ("variant", "size"):
        words += [f"--{option}", getattr(args, option)] if getattr(args, option) else []
    words += ["--batch", args.batch, "--repeats", str(args.repeats)]
    words += [
        f"--{flag.replace('_', '-')}" for flag in ("compile", "peers", "no_limits", "quick") if getattr(args, flag)
    ]
    return shlex.join(words)
