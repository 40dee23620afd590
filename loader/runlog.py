"""Settings and figures of each run, one block a run, in a log a person can read. No inputs, no outputs, no names."""

import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

from loader.outcome import Result

MAX_BYTES = 5 * 2**20


class RunLog:
    """Appends to ``path``; when it is full, the older half is let go by renaming it to ``*.old``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, result: Result) -> None:
        """Add one run. A log that cannot be written does not fail the run."""
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists() and self.path.stat().st_size > MAX_BYTES:
                    self.path.replace(self.path.with_suffix(".old"))
                with self.path.open("ab+") as file:
                    # A process killed while it wrote left half a line.
                    cut = file.tell() > 0 and _last_byte(file) != b"\n"
                    file.write((("\n" if cut else "") + describe(result)).encode())
            except OSError:
                return


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def describe(result: Result) -> str:
    """A run in a few lines."""
    made = result.plan
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {made.adapter} {made.variant} ({result.weights}) on {made.device}",
        f"  size {made.size[0]}×{made.size[1]}, batch {made.batch}, steps {made.steps}",
    ]
    lines += [
        f"  {p.name}: {p.compute_dtype} (stored {p.storage_dtype}), {p.residency}, {p.memory_format}, {p.compile}"
        for p in made.components
    ]
    peak, predicted = result.peak_bytes, made.peak_bytes
    lines.append(
        f"  {result.seconds:.3f} s (predicted {result.predicted_seconds:.3f}), "
        f"device {peak.get('device', 0) / 2**20:.0f} MiB (predicted {predicted['device'] / 2**20:.0f}), "
        f"host {peak.get('host', 0) / 2**20:.0f} MiB (predicted {predicted['host'] / 2**20:.0f})"
    )
    lines += [f"  {t.unit}: {t.event}: {t.why} -> {t.plan_change}" for t in result.trace]
    return "\n".join(lines) + "\n"
