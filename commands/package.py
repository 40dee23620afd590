"""``app.py package``: compile a model's repeated blocks ahead of time, for where nothing can be compiled."""

import argparse
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import ADAPTERS, adapter
from commands import exits, licences, wishes
from commands.progress import Bar
from loader.errors import InputError
from loader.folders import find
from loader.outcome import Step
from loader.plan import Plan
from loader.spec import AdapterSpec
from loader.wishes import Wishes

if TYPE_CHECKING:
    from loader.engine import Engine
    from loader.packages import Call


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "package", help="compile blocks ahead of time, for a ZeroGPU Space (--compile aot there)"
    )
    parser.add_argument("adapter", help=", ".join(spec.name for spec in ADAPTERS))
    parser.add_argument("--out", type=Path, help="folder for packages (default: ANYHOST_PACKAGES, else the cache)")
    licences.add(parser)
    wishes.add(parser)
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    spec = adapter(args.adapter)
    wished = wishes.read(args)
    if wished.compile is not None:
        raise InputError("--compile is what this command does: leave it out")
    from commands.machine import this_machine
    from loader.packages import build, packages_folder

    engine = this_machine().engine()
    folder = args.out or packages_folder(engine.folders.cache)
    accepted = licences.accepted(args.accept_licence, engine.folders)
    for call, arch in _calls(engine, spec, wished, accepted):
        print(build(call, arch, folder), flush=True)
    return exits.DONE


def _calls(
    engine: "Engine", spec: AdapterSpec, wished: Wishes, accepted: frozenset[str]
) -> Iterator[tuple["Call", str]]:
    """Calls of the blocks of a sample run, one of each kind, with what the code for them has to be made for.

    Raises:
        InputError: the model has no sample, or nothing in it is compiled.
    """
    from loader.drive import Driver, Journey
    from loader.opened import open_plan
    from loader.outcome import Cancel
    from loader.packages import captured
    from loader.place import arch_of

    made = _fetched(engine.fetch(spec, wished, Cancel(), accepted))
    variant = spec.variant(made.variant)
    files = {w.file: there.path for w in variant.weights if (there := find(w, engine.folders)) is not None}
    plain = tuple(replace(p, compile="none", packed=False) for p in made.components)
    wanted = [p for p in plain if variant.component(p.name).compile != "none"]
    with closing(open_plan(replace(made, components=plain), files, None)) as opened:
        sample = opened.pipeline.sample(opened.plan)
        if sample is None or not wanted:
            raise InputError(f"{spec.title} has nothing that is compiled ahead of time, or no sample to do it with")
        opened.wake()
        modules = opened.modules()
        with ExitStack() as stack:
            # Blocks by their class, whole networks where the spec compiles those.
            found = [
                (stack.enter_context(captured(modules[p.name], p.compile_blocks, arch_of(p.device))), p) for p in wanted
            ]
            Driver(engine.store, lambda: engine.folders, engine.host.torch).drain(opened, sample, Journey.new(Cancel()))
        for calls, placed in found:
            for call in calls.values():
                yield call, arch_of(placed.device)


def _fetched(steps: Generator[Step, None, Plan]) -> Plan:
    bar = Bar(quiet=False)
    try:
        while True:
            bar.show(next(steps))
    except StopIteration as stop:
        made: Plan = stop.value
        return made
    finally:
        bar.close()
