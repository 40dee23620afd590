"""``app.py plan``: what would run where and why, without loading anything (and without importing torch)."""

import argparse
import json
import os
import sys
from typing import Any

from adapters import ADAPTERS, adapter
from commands import exits, wishes
from kit.texts import LANGUAGES, language_from
from kit.texts.report import plan_record, plan_text
from loader.host import Host, load_host
from loader.knowledge import EMPTY, Knowledge
from loader.plan import plan


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("plan", help="show what would run where, and why")
    parser.add_argument("--host", help="a named host (see `host --named`) or a JSON file; default: this machine")
    parser.add_argument("--adapter", help="only this one")
    parser.add_argument("--json", action="store_true", help="as JSON, always in English")
    parser.add_argument("--language", choices=tuple(LANGUAGES), help="of the text; default: ANYHOST_LANGUAGE, or en")
    wishes.add(parser)
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    wished, language = wishes.read(args), args.language or language_from(os.environ)
    specs = (adapter(args.adapter),) if args.adapter else ADAPTERS
    host, knowledge = host_and_knowledge(args.host)
    plans = [plan(spec, host, wished, knowledge) for spec in specs]
    if args.json:
        json.dump([plan_record(p) for p in plans], sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print("\n\n".join(plan_text(p, language) for p in plans))
    refused = [p for p in plans if not p.fits]
    return exits.REFUSED if len(refused) == len(plans) else exits.DONE


def host_and_knowledge(name: str | None) -> tuple[Host, Knowledge]:
    """A named host, or this machine with what was learned on it."""
    name = name or os.environ.get("ANYHOST_HOST")
    if name:
        return load_host(name), EMPTY
    from commands.machine import known_machine

    machine = known_machine()
    return machine.host, machine.store.load()
