"""``app.py batch``: a folder of inputs, one after another or over a cluster, that goes on where it was interrupted."""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import ADAPTERS, adapter
from commands import exits, licences, wishes
from commands.engines import engine_for, replicas_from
from commands.run import options
from loader.errors import InputError
from loader.outcome import Result

if TYPE_CHECKING:
    from kit.folder_run import Entry


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("batch", help="work through a folder, resuming where it was")
    parser.add_argument("adapter", help=", ".join(spec.name for spec in ADAPTERS))
    parser.add_argument("folder", type=Path, help="folder of inputs; files in folders below it too")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for results (default: out)")
    parser.add_argument("--retry", action="store_true", help="do inputs again that failed before")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the adapter")
    parser.add_argument(
        "--ray",
        action="store_true",
        help="spread files over Ray replicas: those that are up at --address, else new ones",
    )
    parser.add_argument(
        "--address",
        help='with --ray: of a Ray cluster that is up, "auto" for one on this machine (default: RAY_ADDRESS)',
    )
    parser.add_argument("--replicas", help="with --ray, where none are up: how many, or from-to (default: 1)")
    parser.add_argument("--cores", type=int, help="with --ray, where none are up: processor cores of a replica")
    parser.add_argument("--json", action="store_true", help="print one JSON line an input, and the sum at the end")
    licences.add(parser)
    wishes.add(parser)
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    spec = adapter(args.adapter)
    if not spec.pipeline:
        raise InputError(f"{spec.title} is planned here but its network is not in yet")
    wished = wishes.read(args)
    if not args.ray and (args.address or args.replicas or args.cores):
        raise InputError("--address, --replicas and --cores go with --ray")
    from kit.folder_run import tasks, work_through

    job = import_module(spec.job)
    chosen = options(spec, job.OPTIONS, args.set)
    # Text, not a hash: the ledger then says by itself what was asked.
    settings = json.dumps([spec.name, repr(wished), {k: str(v) for k, v in sorted(chosen.items())}])
    # Replicas have working folders of their own, and a video is written by the replica that sees it.
    out = args.out.resolve()
    ledger, left = tasks(args.folder, out, settings, retry=args.retry)
    before = len(ledger.entries)
    counts = {"done": 0, "failed": 0}
    if left:
        replicas = (args.replicas or "1") if args.ray else ""
        with engine_for(replicas=replicas, cores=args.cores, address=args.address) as engine:
            accepted = licences.accepted(args.accept_licence, engine.folders)

            def work(path: Path, folder: Path) -> list[dict[str, Any]]:
                request = job.request([path], chosen | {"out": folder})
                results = [i for i in engine.run(spec, request, wished, accepted=accepted) if isinstance(i, Result)]
                _tell_lost(path, results[-1])
                records: list[dict[str, Any]] = job.write(results[-1], request, folder)
                return records

            for entry in work_through(left, ledger, work, workers=_workers(engine, replicas)):
                counts[entry.state] += 1
                _tell(entry, sum(counts.values()), len(left), as_json=args.json)
    _sum(counts, before, as_json=args.json)
    failed = any(entry.state == "failed" for entry in ledger.entries.values())
    return exits.FAILED if failed else exits.DONE


def _workers(engine: Any, replicas: str) -> int:
    """How many files at a time: as many as the replicas take, also those that a waiting request would bring up."""
    if not replicas:
        return 1
    from cluster.gate import AT_A_REPLICA
    from loader.lanes import MAX_WAITING

    places = max(engine.gate.places(), AT_A_REPLICA * replicas_from(replicas)[1])
    return min(places, MAX_WAITING)


def _tell_lost(path: Path, result: Result) -> None:
    """Say that a replica died over an input: the input is done, but somebody may want to know."""
    for lost in (entry for entry in result.trace if entry.event == "replica_lost"):
        print(f"{path.name}: a replica died, {lost.plan_change}", file=sys.stderr, flush=True)


def _tell(entry: "Entry", number: int, total: int, *, as_json: bool) -> None:
    if as_json:
        plain = {"input": entry.input, "state": entry.state, "error": entry.error, "outputs": list(entry.outputs)}
        print(json.dumps(plain, ensure_ascii=False), flush=True)
        return
    files = ", ".join(file for record in entry.outputs for file in record["files"])
    print(f"[{number}/{total}] {entry.input}: {entry.error or files}", flush=True)


def _sum(counts: dict[str, int], before: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**counts, "before": before}))
        return
    words = f"{counts['done']} done, {counts['failed']} failed, {before} from before"
    print(words + ("; --retry does failed ones again" if counts["failed"] else ""), file=sys.stderr)
