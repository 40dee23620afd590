"""``app.py weights``: what lies on this disk, fetching beforehand, deleting what was fetched."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from adapters import ADAPTERS, adapter
from commands import exits, licences
from commands.progress import Bar
from kit.texts import LANGUAGES, language_from
from kit.texts.labels import label
from kit.texts.weights_report import announced, file_line, totals_lines, variant_line
from loader.acceptance import Record, by_deployer, require
from loader.downloads import Speed
from loader.errors import InputError, WeightsError
from loader.fetch import Progress, fetch_all
from loader.folders import Folders, delete, size_text
from loader.inventory import FileState, VariantState, inventory, totals, variant_state
from loader.outcome import Step
from loader.spec import AdapterSpec


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("weights", help="what is on this disk; fetch and delete")
    parser.add_argument("adapter", nargs="?", help=", ".join(spec.name for spec in ADAPTERS))
    parser.add_argument("--fetch", metavar="VARIANT", help="fetch the files of this variant")
    parser.add_argument("--delete", metavar="VARIANT", help="delete what was fetched of it into this program's cache")
    parser.add_argument(
        "--withdraw-licence", action="append", default=[], metavar="NAME", help="take it off the record"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--language", choices=tuple(LANGUAGES), help="of the text; default: ANYHOST_LANGUAGE, or en")
    licences.add(parser)
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    language, folders = args.language or language_from(os.environ), Folders.from_environ(os.environ)
    specs = (adapter(args.adapter),) if args.adapter else ADAPTERS
    if (args.fetch or args.delete) and not args.adapter:
        raise InputError(f"name the model too: weights ADAPTER --fetch VARIANT; there is {', '.join(_names())}")
    accepted = licences.accepted(args.accept_licence, folders) | by_deployer(os.environ)
    if args.withdraw_licence:
        Record(folders.cache).withdraw(licences.read(args.withdraw_licence))
    if args.fetch:
        fetch(variant_of(specs[0], args.fetch, folders), accepted, folders, language, quiet=args.json)
    if args.delete:
        _delete(variant_of(specs[0], args.delete, folders), folders, language, quiet=args.json)
    states = inventory(specs, folders)
    if args.json:
        json.dump(record(states, folders), sys.stdout, indent=1, ensure_ascii=False)
        print()
    elif not (args.fetch or args.delete):
        print(text(states, folders, language, files=bool(args.adapter)))
    return exits.DONE


def variant_of(spec: AdapterSpec, name: str, folders: Folders) -> VariantState:
    """The files of a variant.

    Raises:
        InputError: the model has no such variant.
    """
    names = [variant.name for variant in spec.variants if variant.weights]
    if name not in names:
        raise InputError(f"{spec.title} has no variant {name!r} with weights: choose {', '.join(names)}")
    return variant_state(spec, spec.variant(name), folders)


def fetch(state: VariantState, accepted: frozenset[str], folders: Folders, language: str, *, quiet: bool) -> None:
    """Fetch what a variant lacks, having said how much that is.

    Raises:
        LicenceNotAcceptedError: before anything is asked for.
        WeightsError: as ``loader.fetch.fetch_all``.
    """
    require(state.variant.weights, accepted)
    if not quiet:
        print(announced(state, language), flush=True)
    bar, speed = Bar(quiet=quiet, language=language), Speed()

    def tell(told: Progress) -> None:
        speed.see(told)
        pace = label("weights.speed", language, speed=size_text(speed.rate())) if speed.rate() else ""
        bar.show(Step(told.stage, told.done, told.total or 0, detail={"file": told.file}), pace)

    try:
        fetch_all(state.variant.weights, folders, on_progress=tell)
    finally:
        bar.close()
    if not quiet:
        print(label("weights.done_words", language))


def _delete(state: VariantState, folders: Folders, language: str, *, quiet: bool) -> None:
    if not state.deletable:
        raise WeightsError(
            f"{state.spec.title} {state.variant.name}: nothing of it was fetched into {folders.cache}, "
            "and nothing else is deleted from here"
        )
    for row in state.deletable:
        delete(row, folders)
        if not quiet:
            print(row.path)
    if not quiet:
        size, count = size_text(state.deletable_bytes), len(state.deletable)
        print(label("weights.deleted_words", language, size=size, count=count))


def text(states: Sequence[VariantState], folders: Folders, language: str, *, files: bool) -> str:
    """Every variant in a line; with ``files`` each of its files below it."""
    lines = []
    for state in states:
        lines.append(variant_line(state, language))
        lines += [f"    {file_line(file, language)}" for file in state.files if files]
    return "\n".join([*lines, "", *totals_lines(totals(states, folders), language)])


def record(states: Sequence[VariantState], folders: Folders) -> dict[str, Any]:
    """Everything as plain data, always in contract words."""
    counted = totals(states, folders)
    return {
        "cache": str(folders.cache),
        "own": [str(folder) for folder in folders.own],
        "bytes": dict(counted.by_origin),
        "free_bytes": {"cache": counted.free, "hub": counted.free_hub},
        "variants": [
            {
                "adapter": state.spec.name,
                "variant": state.variant.name,
                "bytes": state.bytes,
                "missing_bytes": state.missing_bytes,
                "deletable_bytes": state.deletable_bytes,
                "files": [_file_record(file) for file in state.files],
            }
            for state in states
        ],
    }


def _file_record(state: FileState) -> dict[str, Any]:
    found, licence = state.found, state.weights.licence
    return {
        "file": state.weights.file,
        "bytes": found.bytes if found else state.weights.bytes,
        "path": str(found.path) if found else None,
        "origin": found.origin if found else None,
        "partial_bytes": state.partial,
        "licence": {"name": licence.name, "url": licence.url, "accept": licence.accept},
        "sha256": state.sha256 or None,
        "checksum": state.checksum,
        "verified": state.verified,
        "passed_over": list(state.passed_over),
    }


def _names() -> list[str]:
    return [spec.name for spec in ADAPTERS]
