"""``app.py tune``: try the few plans worth trying on sample input, and keep the fastest for the plans to come."""

import argparse
import json
import os
import sys
from typing import Any

from adapters import ADAPTERS, adapter
from commands import exits
from commands.progress import Bar
from kit.sizes import read_size
from kit.texts import LANGUAGES, language_from
from loader.errors import InputError
from loader.wishes import Wishes


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "tune", help="try a few plans on sample input; the fastest is used from then on"
    )
    parser.add_argument("adapter", help=", ".join(spec.name for spec in ADAPTERS))
    parser.add_argument("--variant", help="which network")
    parser.add_argument("--size", help="network input as HEIGHTxWIDTH")
    parser.add_argument("--device", help="cpu, cuda:0, mps, xpu:0")
    parser.add_argument("--batch", type=int, help="items in one call; default: one and a larger batch are tried")
    parser.add_argument("--max-drift", type=float, help="largest distance from fp32, in the model's own metric")
    parser.add_argument("--compile", action="store_true", help="try torch.compile too, which takes a minute each")
    parser.add_argument("--rounds", type=int, default=7, help="undisturbed rounds wanted (default: 7)")
    parser.add_argument("--seconds", type=float, default=60.0, help="no new round after so long (default: 60)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--language", choices=tuple(LANGUAGES), help="of the text; default: ANYHOST_LANGUAGE, or en")
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    spec, language = adapter(args.adapter), args.language or language_from(os.environ)
    if args.rounds < 1:
        raise InputError(f"--rounds {args.rounds}: at least 1 is needed")
    wishes = Wishes(
        device=args.device,
        variant=args.variant,
        size=read_size(args.size) if args.size else None,
        batch=args.batch,
        max_drift=args.max_drift,
    )
    from commands.machine import this_machine
    from kit.texts.tuning_report import tuning_record, tuning_text
    from loader.tuning import Trials, Tuning

    engine = this_machine().engine()
    bar = Bar(quiet=args.json, language=language)
    found: Tuning | None = None
    try:
        for item in engine.tune(spec, wishes, Trials(args.rounds, args.seconds, compiled=args.compile)):
            if isinstance(item, Tuning):
                found = item
            else:
                bar.show(item)
    finally:
        bar.close()
        engine.close()
    assert found is not None, "tuning ends with what came of it or an error"
    if args.json:
        json.dump(tuning_record(found), sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print(tuning_text(found, language))
    return exits.DONE if found.winner is not None else exits.FAILED
