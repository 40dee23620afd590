"""The bench's report as a table, as Markdown with charts, as CSV, as JSON."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from adapters import adapter
from bench import measuring
from bench.charts import Bar, memory_bars, rate_bars, svg_file, time_bars
from bench.rows import Asked, Machine, Progress, Report, Row, Tell, report_to_json, unheard
from kit.exports import write_bytes
from loader.errors import InputError
from loader.folders import Folders
from loader.host import GIB, Host

MIB = 2**20
COLUMNS = (
    *("variant", "size", "configuration", "batch", "ms a picture", "quartiles", "fastest", "images/s", "speed-up"),
    *("peak MiB", "of the first", "drift", "rounds", "quiet"),
)
NONE = "–"


def report(asked: Sequence[Asked], host: Host, folders: Folders, tell: Tell = unheard) -> Report:
    """Rows of all adapters with the machine's description.

    Raises:
        AnyhostError: as ``bench.measuring.rows``.
    """
    done: list[Row] = []
    for one in asked:
        done += measuring.rows(one, host, folders, partial(_after, tuple(done), tell))
    return Report(Machine.of(host, date.today().isoformat()), tuple(done))


def _after(before: tuple[Row, ...], tell: Tell, progress: Progress) -> None:
    tell(replace(progress, rows=before + progress.rows))


# --- words --------------------------------------------------------------------------------------------------------


def machine_line(machine: Machine) -> str:
    """The machine in one line."""
    cards = ", ".join(machine.accelerators)
    parts = (
        machine.title,
        "" if machine.cpu in machine.title else f"{machine.cores} cores of {machine.cpu}",
        f"{machine.ram_bytes / GIB:.0f} GiB",
        cards,
        ", ".join(machine.isa),
        f"torch {machine.torch}, Python {machine.python}",
        f"limited by {', '.join(machine.limits)}" if machine.limits else "",
        f"measured {machine.date}",
    )
    return "; ".join(part for part in parts if part)


def table(found: Report) -> str:
    """The report as a Markdown table, for a terminal too."""
    return f"{machine_line(found.machine)}\n\n{_grid(found.rows)}\n\n{_notes(found.rows)}"


def _grid(rows: Sequence[Row], *, without: int = 0) -> str:
    """All columns but the first ones, which a heading may say already."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, rows)]
    return "\n".join(_line(line[without:]) for line in lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cells(row: Row) -> tuple[str, ...]:
    """A row in the order of ``COLUMNS``. One that could not be timed says why in place of its time."""
    height, width = row.size
    ms = row.ms_per_image
    why = row.error.replace("|", "/")
    return (
        row.variant,
        f"{height}×{width}",
        row.config,
        str(row.batch),
        (why or NONE) if ms is None else f"{ms.median:.1f}",
        NONE if ms is None else f"{ms.low:.1f}–{ms.high:.1f}",
        NONE if ms is None else f"{ms.min:.1f}",
        _number(row.images_per_second, "{:.1f}"),
        _number(row.speed_up, "{:.2f}×"),
        _number(None if row.peak is None else row.peak / MIB, "{:.0f}"),
        _number(row.memory_ratio, "{:.2f}"),
        _number(row.drift, "{:.4f}"),
        str(row.repeats) if ms is not None else NONE,
        NONE if ms is None else "yes" if row.quiet else "no",
    )


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def _notes(rows: Sequence[Row]) -> str:
    weights = ", ".join(sorted({row.weights for row in rows}))
    return (
        f"Weights: {weights}. Times are medians over rounds in which every configuration has one call in turn, with "
        "the quartiles beside them. Speed-up: median over rounds, against the first row of the same batch and "
        "instruction set. Peak: weights and everything else that grew while it ran, in a process of its own. Drift: "
        "from the first row, as the adapter judges it. Quiet: threads waited less than a tenth of the time for a "
        "processor."
    )


# --- files --------------------------------------------------------------------------------------------------------


def csv_text(found: Report) -> str:
    """A line for each row (RFC 4180): times in milliseconds a call, memory in bytes."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    spans = ("min", "low", "median", "high", "max")
    names = ("adapter", "variant", "weights", "config", "kind", "height", "width", "batch", "repeats")
    figures = ("images_per_second", "speed_up", "quiet", "peak_bytes", "memory_ratio", "drift", "limits", "error")
    writer.writerow((*names, *(f"ms_{span}" for span in spans), *figures))
    for row in found.rows:
        ms = [getattr(row.ms, span) if row.ms is not None else "" for span in spans]
        what = (row.adapter, row.variant, row.weights, row.config, row.kind, *row.size, row.batch, row.repeats)
        rest = (row.images_per_second, row.speed_up, row.quiet, row.peak, row.memory_ratio, row.drift)
        limits = " ".join(row.limits)
        writer.writerow((*what, *ms, *("" if value is None else value for value in rest), limits, row.error))
    return buffer.getvalue()


def markdown(found: Report, command: str = "", charts: Mapping[str, str] | None = None) -> str:
    """The report as a page: the machine, how it was made, and a table for each model with its charts.

    Args:
        found: the report.
        command: that gives it again.
        charts: address of each picture by its name (see ``chart_files``); none are shown without it.
    """
    parts = ["# Measured by `app.py bench`", machine_line(found.machine) + "."]
    if command:
        parts.append(f"```\n{command}\n```")
    for rows in found.tables():
        title = table_title(rows)
        pictures = [f"![{title}: {what}]({charts[name]})" for what, name in _names(rows) if charts and name in charts]
        parts += [f"## {title}", *pictures, _grid(rows, without=2)]
    return "\n\n".join([*parts, _notes(found.rows)]) + "\n"


def table_title(rows: Sequence[Row]) -> str:
    """What a table is of: "DAMO-YOLO T at 640×640"."""
    first = rows[0]
    height, width = first.size
    return f"{adapter(first.adapter).title} {first.variant} at {height}×{width}"


def chart_files(found: Report) -> dict[str, str]:
    """SVG by file name, for each table: time, throughput and memory as far as they were measured."""
    made: dict[str, str] = {}
    for rows in found.tables():
        drawn = (time_bars, rate_bars, memory_bars)
        for draw, (what, name) in zip(drawn, _names(rows), strict=True):
            bars: list[Bar] = draw(rows, lambda row: row.config, _group)
            if bars:
                made[name] = svg_file(bars, f"{table_title(rows)}: {what}")
    return made


def _group(row: Row) -> str:
    return f"batch {row.batch}"


def _names(rows: Sequence[Row]) -> list[tuple[str, str]]:
    first = rows[0]
    stem = f"{first.adapter}-{first.variant}-{first.size[0]}x{first.size[1]}"
    kinds = (("milliseconds a picture", "time"), ("pictures a second", "rate"), ("peak memory", "memory"))
    return [(what, f"{stem}-{kind}.svg") for what, kind in kinds]


def save(found: Report, path: Path) -> Path:
    """Write the report as JSON, CSV or Markdown, by the name's ending.

    Raises:
        InputError: another ending.
        OutputError: it cannot be written.
    """
    writers = {".json": report_to_json, ".csv": csv_text, ".md": markdown}
    if path.suffix not in writers:
        raise InputError(f"{path.name}: end the name with {', '.join(writers)}")
    return write_bytes(path, writers[path.suffix](found).encode())


def save_page(found: Report, path: Path, command: str, *, charts: bool) -> Path:
    """Write the Markdown page with its command, and its charts into ``charts`` beside it.

    Raises:
        OutputError: a file cannot be written.
    """
    drawn = chart_files(found) if charts else {}
    for name, content in drawn.items():
        write_bytes(path.parent / "charts" / name, content.encode())
    return write_bytes(path, markdown(found, command, {name: f"charts/{name}" for name in drawn}).encode())


def show(found: Report, *, as_json: bool) -> None:
    """Print the report."""
    sys.stdout.write(report_to_json(found) if as_json else table(found) + "\n")
