"""``app.py run``: one job without a browser, through the same engine and the same plan."""

import argparse
import json
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from adapters import ADAPTERS, adapter
from commands import exits, licences, wishes
from commands.bundles import Report
from commands.progress import Bar
from kit.texts import EVENTS_OF, PROVENANCE_OF
from kit.texts.report import drift_text, plan_record, seconds_text
from kit.texts.weights_report import announced
from loader.codec import to_plain
from loader.errors import AnyhostError, InputError
from loader.folders import Folders
from loader.inventory import variant_state
from loader.outcome import Cancel, Result, Step
from loader.plan import Plan
from loader.spec import AdapterSpec


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("run", help="do one job without a browser")
    parser.add_argument("adapter", help=", ".join(spec.name for spec in ADAPTERS))
    parser.add_argument("input", nargs="+", type=Path, help="pictures or other inputs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for results (default: out)")
    parser.add_argument("--checkpoint", type=Path, help="your own weights: a file, for some models also a folder")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the adapter")
    parser.add_argument("--resume", type=Path, help="folder in which a stopped run left its work: go on from there")
    parser.add_argument(
        "--compare", action="store_true", help="only a short piece, as planned and in fp32: how near they are"
    )
    parser.add_argument(
        "--check-drift", action="store_true", help="compare the plan with fp32 on a sample first, whatever that takes"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--bundle", type=Path, help="write a report bundle, also of a failure (see `plan --bundle`)")
    licences.add(parser)
    wishes.add(parser)
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    spec = adapter(args.adapter)
    if not spec.pipeline:
        raise InputError(
            f"{spec.title} is planned here but its network is not in yet; `plan --adapter {spec.name}` works"
        )
    wished, report = wishes.read(args), Report(args.bundle)
    from commands.machine import this_machine
    from kit.running import Asked

    job = import_module(spec.job)
    # What is long is written while it runs, so a job knows its folder from the start.
    chosen = options(spec, job.OPTIONS, [*args.set, *([f"resume={args.resume}"] if args.resume else [])])
    if args.compare and not hasattr(job, "compare"):
        raise InputError(f"--compare: {spec.name} has no short piece to compare; the page shows its drift")
    request = job.request(args.input, chosen | {"out": args.out})
    engine = this_machine().engine()
    accepted = licences.accepted(args.accept_licence, engine.folders)
    if args.checkpoint is None and not args.json:
        announce(engine.plan(spec, wished), engine.folders)
    bar, cancel = Bar(quiet=args.json), Cancel()
    asked = Asked(wished, cancel, checkpoint=args.checkpoint, accepted=accepted)
    try:
        with stopping(cancel), report.of_failure(lambda: engine.plan(spec, wished)):
            if args.compare:
                return _told(shown(bar, job.compare(engine, request, asked)), as_json=args.json)
            named = {"checkpoint": args.checkpoint, "accepted": accepted, "check_drift": args.check_drift}
            found = engine.run(spec, request, wished, cancel=cancel, **named)
            result: Result = shown(bar, found)
            report.write(result)
    except AnyhostError as error:
        bar.close()
        for line in job.keep(error, request, args.out) if hasattr(job, "keep") else ():
            print(line, file=sys.stderr, flush=True)
        raise
    finally:
        bar.close()
        engine.close()
    outputs = job.write(result, request, args.out)
    if args.json:
        json.dump(record(result, outputs), sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print(text(result, outputs))
    return exits.DONE


def shown(bar: Bar, items: Iterable[Any]) -> Any:
    """What comes of a run, its steps shown as they come."""
    last: Any = None
    for last in items:
        if isinstance(last, Step):
            bar.show(last)
    assert last is not None, "a run ends with a result or an error"
    return last


@contextmanager
def stopping(cancel: Cancel) -> Iterator[None]:
    """Let the first Ctrl-C, or a polite end, stop the run after the piece it is at; a second one leaves at once."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, _: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        cancel.request()
        print("\nstopping after this piece of work; again to leave at once", file=sys.stderr, flush=True)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(found: Mapping[str, Any], *, as_json: bool) -> int:
    if as_json:
        json.dump(found, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print("\n".join(found["summary"]))
    return exits.DONE


def announce(made: Plan, folders: Folders) -> None:
    """Say what has to be fetched before the plan can run: how much, from where."""
    variants = [variant for variant in made.situation.spec.variants if variant.name == made.variant]
    for variant in variants if made.fits else ():
        state = variant_state(made.situation.spec, variant, folders)
        if state.missing:
            print(announced(state, "en"), file=sys.stderr, flush=True)


def options(spec: AdapterSpec, known: Mapping[str, tuple[type, Any, str]], given: list[str]) -> dict[str, Any]:
    """The adapter's options from ``NAME=VALUE`` words.

    Raises:
        InputError: an unknown name or a value of the wrong kind.
    """
    values = {name: default for name, (_, default, _) in known.items()}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise InputError(f"--set {word}: {spec.name} knows {', '.join(f'{n}=…' for n in known)}")
        try:
            values[name] = known[name][0](value)
        except ValueError as error:
            raise InputError(f"--set {word}: {name} has to be a {known[name][0].__name__}") from error
    return values


def record(result: Result, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The result as contracted."""
    return {
        "adapter": result.plan.adapter,
        "variant": result.plan.variant,
        "weights": PROVENANCE_OF.get(result.weights, result.weights),
        "plan": plan_record(result.plan),
        "trace": [{"unit": t.unit, "event": t.event, "why": t.why, "plan_change": t.plan_change} for t in result.trace],
        "seconds": result.seconds,
        "load_seconds": result.load_seconds,
        "peak_bytes": dict(result.peak_bytes),
        "drift": None if result.drift is None else to_plain(result.drift),
        "outputs": outputs,
    }


def text(result: Result, outputs: list[dict[str, Any]]) -> str:
    """The result for people: what was found, where it lies, what it took against the prediction."""
    plan = result.plan
    pool = "host" if plan.device == "cpu" else "device"
    lines = []
    for output in outputs:
        named = output.get("detections")
        if named is not None:
            counts: dict[str, int] = {}
            for item in named:
                counts[item["label"]] = counts.get(item["label"], 0) + 1
            what = ", ".join(f"{count} {label}" for label, count in counts.items()) or "nothing above the threshold"
            lines.append(f"{output['input']}: {what}")
        lines += output.get("summary", [])
        lines += [f"  {file}" for file in output["files"]]
    lines.append(
        f"{plan.variant} ({PROVENANCE_OF.get(result.weights, result.weights)}) on {plan.device}: "
        f"{seconds_text(result.seconds)} (predicted {seconds_text(result.predicted_seconds)}), "
        f"{result.peak_bytes[pool] / 2**20:.0f} MiB (predicted {plan.peak_bytes[pool] / 2**20:.0f})"
    )
    if result.drift is not None and result.drift.how != "exact":
        lines.append(f"  {drift_text(result.drift)}")
    lines += [f"  {t.unit}: {EVENTS_OF[t.event]}: {t.why} → {t.plan_change}" for t in result.trace]
    return "\n".join(lines)
