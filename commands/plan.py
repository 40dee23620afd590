"""``app.py plan``: what would run where and why, without loading anything (and without importing torch).

With ``--bundle`` a report bundle is replayed: the plan as it was beside the one made of the same facts now.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters import ADAPTERS, adapter
from commands import exits, wishes
from kit.texts import LANGUAGES, language_from
from kit.texts.comparison import Comparison, comparison_record, comparison_text, host_name, host_title
from kit.texts.replay import replay_record, replay_text
from kit.texts.report import plan_record, plan_text
from loader.bundle import read_bundle, replayed
from loader.errors import InputError
from loader.host import Host, load_host
from loader.knowledge import EMPTY, Knowledge
from loader.plan import Plan, plan
from loader.wishes import Wishes

THIS = "this"


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("plan", help="show what would run where, and why")
    parser.add_argument("--host", help="a named host (see `host --named`) or a JSON file; default: this machine")
    parser.add_argument("--against", help=f"compare with this host: a name, a JSON file, or {THIS} for this machine")
    parser.add_argument("--adapter", help="only this one")
    parser.add_argument(
        "--bundle", type=Path, help="replay a report bundle: its plan as it was and now; exit code 1 if it differs"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, always in English")
    parser.add_argument("--language", choices=tuple(LANGUAGES), help="of the text; default: ANYHOST_LANGUAGE, or en")
    wishes.add(parser)
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    wished, language = wishes.read(args), args.language or language_from(os.environ)
    if args.bundle is not None:
        if args.host or args.against or args.adapter or wished != Wishes():
            raise InputError("--bundle brings its own machine, model and wishes: leave out the other options")
        return _replayed(args.bundle, language, as_json=args.json)
    specs = (adapter(args.adapter),) if args.adapter else ADAPTERS
    host, knowledge = host_and_knowledge(args.host)
    plans = [plan(spec, host, wished, knowledge) for spec in specs]
    if args.against:
        other, learned = host_and_knowledge(args.against)
        _compared([plan(spec, other, wished, learned) for spec in specs], plans, language, as_json=args.json)
    elif args.json:
        _dump([plan_record(p) for p in plans])
    else:
        print("\n\n".join(plan_text(p, language) for p in plans))
    refused = [p for p in plans if not p.fits]
    return exits.REFUSED if len(refused) == len(plans) else exits.DONE


def _replayed(path: Path, language: str, *, as_json: bool) -> int:
    bundle = read_bundle(path)
    made = replayed(bundle)
    if as_json:
        _dump(replay_record(bundle, made))
    else:
        print(replay_text(bundle, made, language))
    return exits.DONE if made.reproduces else exits.FAILED


def host_and_knowledge(name: str | None) -> tuple[Host, Knowledge]:
    """A named host, or this machine with what was learned on it: that holds nowhere else."""
    name = name or os.environ.get("ANYHOST_HOST")
    if name and name != THIS:
        return load_host(name), EMPTY
    from commands.machine import known_machine

    machine = known_machine()
    return machine.host, machine.store.load()


def _compared(here: Sequence[Plan], there: Sequence[Plan], language: str, *, as_json: bool) -> None:
    compared = [Comparison(mine, other) for mine, other in zip(here, there, strict=True)]
    mine, other = (plans[0].situation.host for plans in (here, there))
    if as_json:
        records = [comparison_record(c) for c in compared]
        _dump({"host": other.name, "against": mine.name, "plans": records})
        return
    for host in (other, mine):
        print(f"{host_name(host, language)}: {host_title(host, language)}")
    print()
    print("\n\n".join(comparison_text(c, language) for c in compared))


def _dump(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    print()
