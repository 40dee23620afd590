"""From one replica to many users: which part of a host is full first, and how many hosts it takes, as Markdown.

``python -m bench.scale`` prints the tables of ``docs/scale.md``; ``--write`` puts them there. Nothing is run: seconds
are the plans', or what was measured (``docs/benchmarks``) where the plan is the one that was.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters import ADAPTERS, adapter
from loader.host import Host, load_host
from loader.memory import gib
from loader.plan import Plan, plan
from loader.spec import AdapterSpec

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- begin: python -m bench.scale --write -->", "<!-- end -->"

USERS_PER_MINUTE = 1000
UTILISATION = 0.7
QUANTILE = 0.95
HOSTS = ("cpu-basic", "cpu-amx", "t4-16g", "l4-24g", "h200-141g")
MIX: Mapping[str, float] = {
    "damo_yolo": 0.60,
    "metric3d": 0.30,
    "instantid": 0.06,
    "hunyuan3d": 0.03,
    "aniportrait": 0.01,
}

LINK_BYTES_A_SECOND = 1e9 / 8
# What comes and goes with a request: a photograph of 12 megapixels and the drawn result, and so on.
TRAFFIC_BYTES: Mapping[str, float] = {
    "damo_yolo": 4e6,
    "metric3d": 8e6,
    "instantid": 5e6,
    "aniportrait": 4e6,
    "hunyuan3d": 8e6,
}
# Seconds of one core to decode such a photograph (Pillow, 4000×3000, measured) and to write what is shown.
DECODE_SECONDS = 0.10
ENCODE_SECONDS = 0.05
# Measured on the machine of docs/benchmarks/detector.md and metric3d.md, by (host, adapter, variant, size).
MEASURED: Mapping[tuple[str, str, str, tuple[int, int]], float] = {
    ("cpu-amx", "damo_yolo", "T", (640, 640)): 0.0257,
    ("cpu-amx", "metric3d", "vit_small", (616, 1064)): 1.002,
}


@dataclass(frozen=True)
class Part:
    """A part of a host and how many requests a second it can do at most."""

    name: str
    a_second: float


@dataclass(frozen=True)
class Row:
    """One model on hosts of one kind.

    Attributes:
        made: the plan.
        seconds: one request takes in the lane.
        measured: ``seconds`` were, and are not the plan's.
        parts: of a host, the one that is full first in front.
        hosts: how many it takes.
        wait: seconds that 19 of 20 requests wait at most.
    """

    made: Plan
    seconds: float
    measured: bool
    parts: tuple[Part, ...]
    hosts: int
    wait: float


def seconds_of(made: Plan) -> tuple[float, bool]:
    """Seconds of a request in the lane, and whether they were measured."""
    key = (made.host, made.adapter, made.variant, made.size)
    return (MEASURED[key], True) if key in MEASURED else (made.predicted_seconds / made.batch, False)


def parts_of(made: Plan, seconds: float) -> tuple[Part, ...]:
    """Link, decoding and lane of a host, the narrowest first.

    On a CPU the lane has all cores, so decoding takes its time from it: both are one part there.
    """
    cores = made.situation.host.cpu.cores
    handling = (DECODE_SECONDS + ENCODE_SECONDS) / cores
    link = Part("link", LINK_BYTES_A_SECOND / TRAFFIC_BYTES[made.adapter])
    found: tuple[Part, ...]
    if made.device == "cpu":
        found = (link, Part("processor", 1 / (seconds + handling)))
    else:
        found = (link, Part("decoding", 1 / handling), Part("lane", 1 / seconds))
    return tuple(sorted(found, key=lambda part: part.a_second))


def waits(arrivals: float, service: float, servers: int, quantile: float = QUANTILE) -> float:
    """Seconds that ``quantile`` of the requests wait at most: Poisson arrivals, exponential service (Erlang's C).

    Args:
        arrivals: requests a second.
        service: seconds of one.
        servers: that work side by side.
        quantile: share of the requests, below 1.

    Raises:
        ValueError: they cannot keep up.
    """
    load = arrivals * service
    if load >= servers:
        raise ValueError(f"{servers} servers cannot keep up with a load of {load:.1f}")
    blocked = 1.0  # Erlang's B, by recursion over servers: no large powers
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    waiting = blocked / (1 - load / servers * (1 - blocked))
    return max(0.0, math.log(waiting / (1 - quantile)) / (servers / service - arrivals)) if waiting else 0.0


def row_of(spec: AdapterSpec, host: Host, users_per_minute: float = USERS_PER_MINUTE) -> Row | None:
    """A model on hosts of one kind; None where it does not fit."""
    made = plan(spec, host)
    if not made.fits:
        return None
    seconds, measured = seconds_of(made)
    parts, arrivals = parts_of(made, seconds), users_per_minute / 60
    hosts = max(1, math.ceil(arrivals / (UTILISATION * parts[0].a_second)))
    return Row(made, seconds, measured, parts, hosts, waits(arrivals, 1 / parts[0].a_second, hosts))


def hosts_for_mix(host: Host, users_per_minute: float = USERS_PER_MINUTE) -> tuple[int, str]:
    """Hosts for ``MIX``, every one of them serving every model, and the part that is full first.

    Raises:
        ValueError: a model of the mix does not fit there.
    """
    busy: dict[str, float] = {}
    for name, share in MIX.items():
        row = row_of(adapter(name), host)
        if row is None:
            raise ValueError(f"{name} does not fit on {host.name}")
        for part in row.parts:
            busy[part.name] = busy.get(part.name, 0.0) + share * users_per_minute / 60 / part.a_second
    name, load = max(busy.items(), key=lambda item: item[1])
    return max(1, math.ceil(load / UTILISATION)), name


def tables() -> str:
    """Both tables of the page."""
    lines = [
        "| model | host | a request | a host does, per minute | full first | peak of memory | hosts | p95 wait |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(spec, load_host(name)) for spec in ADAPTERS for name in HOSTS]
    mix = ", ".join(f"{share:.0%} {adapter(name).title}" for name, share in MIX.items())
    lines += ["", f"Everybody on the same hosts, {mix}:", "", "| host | hosts | full first |", "|---|---|---|"]
    for name in HOSTS:
        try:
            hosts, part = hosts_for_mix(load_host(name))
        except ValueError as error:
            lines.append(f"| {name} | none: {error} | |")
        else:
            lines.append(f"| {name} | {hosts:,} | {part} |")
    return "\n".join(lines)


def _line(spec: AdapterSpec, host: Host) -> str:
    row = row_of(spec, host)
    if row is None:
        return f"| {spec.title} | {host.name} | does not fit | | | | | |"
    narrow, wide = row.parts[0], row.parts[1]
    pool = "host" if row.made.device == "cpu" else "device"
    share = row.made.peak_bytes[pool] / row.made.budget_bytes[pool]
    cells = (
        f"{spec.title} {row.made.variant}",
        host.name,
        _seconds(row.seconds) + (" (measured)" if row.measured else ""),
        _figure(narrow.a_second * 60),
        f"{narrow.name} (next: {wide.name}, {_figure(wide.a_second / narrow.a_second)}×)",
        f"{gib(row.made.peak_bytes[pool])} GiB, {share:.0%}",
        f"{row.hosts:,}",
        _seconds(row.wait),
    )
    return f"| {' | '.join(cells)} |"


def _seconds(value: float) -> str:
    for limit, unit in ((7200, 3600), (120, 60)):
        if value >= limit:
            return f"{_figure(value / unit)} {'h' if unit == 3600 else 'min'}"
    return f"{_figure(value)} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _figure(value: float) -> str:
    """Two figures are as many as a plan is good for."""
    if value >= 100 or value == 0:
        digits = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
        return f"{round(value / digits) * digits:,}"
    return f"{value:.2g}"


def written(page: str) -> str:
    """``page`` with the tables as they are now.

    Raises:
        ValueError: it has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for the tables: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    if parser.parse_args(argv).write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
