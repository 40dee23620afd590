"""``app.py host``: what was probed, or the hosts known by name."""

import argparse
import json
import sys
from typing import Any

from commands import exits
from loader.codec import to_plain
from loader.host import Host, host_names, load_host
from loader.memory import gib


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("host", help="show what this machine is")
    parser.add_argument("--named", action="store_true", help="list the named hosts instead")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(main=main)


def main(args: Any) -> int:
    if args.named:
        hosts = [load_host(name) for name in host_names()]
        if args.json:
            _dump([to_plain(host) for host in hosts])
        else:
            width = max(len(host.name) for host in hosts)
            print("\n".join(f"{host.name:<{width}}  {host.title}" for host in hosts))
        return exits.DONE
    from commands.machine import this_machine

    host = this_machine().host
    if args.json:
        _dump(to_plain(host))
    else:
        print(host_text(host))
    return exits.DONE


def host_text(host: Host) -> str:
    """A machine in a few lines."""
    cpu = host.cpu
    rates = ", ".join(f"{d} {r.gflops:.0f} GFLOP/s ({r.source})" for d, r in cpu.rates.items())
    lines = [
        f"{host.title}",
        f"  CPU: {cpu.name}, {cpu.cores} cores, {', '.join(cpu.effective_isa)}",
        *([f"  limited by {', '.join(cpu.limits)}"] if cpu.limits else []),
        f"  products: {rates}",
        f"  RAM: {gib(host.free_ram_bytes)} of {gib(host.ram_bytes)} GiB free",
        f"  disk: {gib(host.disk_free_bytes)} GiB free for weights",
        f"  torch {host.torch}, Python {host.python}, {host.system}, {host.platform}, "
        + ("a C++ compiler" if host.compiler else "no C++ compiler"),
    ]
    for a in host.accelerators:
        native = ", ".join(a.native)
        lines.append(
            f"  {a.device}: {a.name} ({a.arch}), {gib(a.free_bytes)} of {gib(a.memory_bytes)} GiB free, {native}"
        )
    if not host.accelerators:
        lines.append("  no accelerator")
    return "\n".join(lines)


def _dump(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    print()
