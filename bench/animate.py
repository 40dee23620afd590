"""One denoising step of AniPortrait's two full-size UNets: planned against fp32, contiguous, eager.

    python -m bench.animate --size 256 --frames 4 --rounds 3 [--compile] [--json]

Weights are random, from one seed, so that both compute the same. Each configuration is a process of its own, which
waits while the other computes: times are taken in turn, and a process's peak is that of one configuration. A step is
the portrait's UNet once and the denoising UNet once on a window with guidance, as the first step of a clip is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from adapters.aniportrait.miniature import CONFIGS
from adapters.aniportrait.spec import SPEC
from bench.timing import Times, ratio
from loader.codec import from_plain, to_plain
from loader.folders import Folders
from loader.measure import PeakMeter, anonymous_bytes
from loader.microprobe import with_micro
from loader.plan import Placement, Plan, plan
from loader.probe import probe
from loader.wishes import Wishes

PAIR = ("reference_unet", "denoising_unet")
SEED, SPREAD = 7, 0.02
PUBLISHED, PLANNED = "fp32 contiguous eager", "planned"
TIMESTEP, PIXELS_PER_LATENT, CHANNELS = 999, 8, 4
GO = "go"


@dataclass(frozen=True)
class Window:
    """What a step works on: a square of ``size`` pixels, ``frames`` long; ``small`` takes the miniature networks."""

    size: int
    frames: int
    small: bool = False


def made_plan(window: Window) -> Plan:
    """What this machine would do."""
    folders = Folders.from_environ(os.environ)
    host = with_micro(probe(cache_dir=folders.cache, environ=os.environ), folders.cache)
    variant = "miniature" if window.small else "v2"
    return plan(SPEC, host, Wishes(variant=variant, size=(window.size, window.size), frames=max(2, window.frames)))


def placements(made: Plan, *, compiled: bool) -> dict[str, dict[str, Placement]]:
    """What is compared, by name and component; the first is what the others are measured against."""
    planned = {name: made.component(name) for name in PAIR}
    if not compiled:
        planned = {name: replace(placement, compile="none") for name, placement in planned.items()}
    plain = {
        name: replace(
            placement,
            storage_dtype="fp32",
            compute_dtype="fp32",
            memory_format="contiguous",
            attention="sdpa",
            compile="none",
            keep_fp32=(),
            packed=False,
        )
        for name, placement in planned.items()
    }
    return {PUBLISHED: plain, PLANNED: planned}


# --- the process of one configuration ---------------------------------------------------------------------------


class Pair:
    """Both networks, placed."""

    def __init__(self, placed: Mapping[str, Placement], window: Window) -> None:
        self.placed, self.window = placed, window
        self._calls = {name: self._network(name) for name in PAIR}

    def _network(self, name: str) -> Any:
        import torch

        from adapters.aniportrait.networks import COMPONENTS, build
        from loader.place import call_guard, place

        with torch.device("meta"):
            network = build(name, COMPONENTS[name][0], **(CONFIGS[name] if self.window.small else {}))
        generator = torch.Generator().manual_seed(SEED)
        # Filled and cast tensor by tensor: fp32 never exists as a whole where it is not wanted.
        for path, parameter in list(network.named_parameters()):
            values = torch.empty(parameter.shape).normal_(0, SPREAD, generator=generator)
            owner, _, last = path.rpartition(".")
            values = values + 1 if last == "weight" and values.ndim == 1 else values
            cast_values = torch.nn.Parameter(values.to(_dtype(self.placed[name])), requires_grad=False)
            network.get_submodule(owner).register_parameter(last, cast_values)
        for path, buffer in list(network.named_buffers()):
            owner, _, last = path.rpartition(".")
            network.get_submodule(owner).register_buffer(last, torch.zeros(buffer.shape, dtype=buffer.dtype))
        return call_guard(place(network.eval(), self.placed[name]), self.placed[name])

    def step(self) -> Any:
        """One step; returns the guided prediction ``[1, 4, F, h, w]`` fp32 on the CPU."""
        import torch

        from adapters.aniportrait.denoise import Portrait, Predictor

        side, generator = self.window.size // PIXELS_PER_LATENT, torch.Generator().manual_seed(SEED)
        width = CONFIGS["image_encoder"]["projection_dim"] if self.window.small else 768
        latents = torch.randn(1, CHANNELS, self.window.frames, side, side, generator=generator)
        token = torch.randn(1, 1, width, generator=generator)
        banks = self._calls["reference_unet"](latents[:, :, 0], torch.zeros((), dtype=torch.long), token)
        predict = Predictor(self._calls["denoising_unet"], Portrait(token, banks), 3.5)
        # Without poses, which another network makes.
        return predict(latents, TIMESTEP, cast(Any, None)).cpu()


def _dtype(placement: Placement) -> Any:
    from loader.place import TORCH_DTYPES

    return TORCH_DTYPES[placement.storage_dtype]


def child(job: Mapping[str, Any], answers: Path) -> None:
    """Compute a step for every line on the standard input; tell seconds and peak."""
    import time

    import torch

    window = Window(**job["window"])
    before = anonymous_bytes()
    pair = Pair({name: from_plain(Placement, value) for name, value in job["placed"].items()}, window)
    weights = anonymous_bytes() - before
    for number, _ in enumerate(sys.stdin):
        with PeakMeter("cpu") as meter:
            started = time.perf_counter()
            output = pair.step()
            seconds = time.perf_counter() - started
        if number == 0:
            torch.save(output, answers)
        told = {"seconds": seconds, "peak_bytes": weights + meter.bytes["host"], "weights_bytes": weights}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


# --- the process that compares ----------------------------------------------------------------------------------


class Runner:
    """A child that computes when it is told to."""

    def __init__(self, placed: Mapping[str, Placement], window: Window, answers: Path) -> None:
        self.answers = answers
        job = {"window": to_plain(window), "placed": {name: to_plain(value) for name, value in placed.items()}}
        command = [sys.executable, "-m", "bench.animate", "--child", json.dumps(job), "--answers", str(answers)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, Any]:
        """One step."""
        given, told = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        given.write(GO + "\n")
        given.flush()
        line = told.readline()
        if not line:
            raise RuntimeError(f"a configuration ended early (exit {self._process.wait()}): is there enough memory?")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        cast(IO[str], self._process.stdin).close()
        self._process.wait(60)


def measure(window: Window, rounds: int, *, compiled: bool) -> list[dict[str, Any]]:
    """Rows of both configurations: seconds, speed-up, peak, share of the first one's peak, distance from it."""
    made = made_plan(window)
    compared = placements(made, compiled=compiled)
    with tempfile.TemporaryDirectory() as folder:
        runners = {
            name: Runner(placed, window, Path(folder) / f"{index}.pt")
            for index, (name, placed) in enumerate(compared.items())
        }
        try:
            told: dict[str, list[dict[str, Any]]] = {name: [runner.step()] for name, runner in runners.items()}
            for _ in range(rounds):
                for name, runner in runners.items():
                    told[name].append(runner.step())
            return _rows(made, compared, told, {name: _opened(runner.answers) for name, runner in runners.items()})
        finally:
            for runner in runners.values():
                runner.close()


def _opened(path: Path) -> Any:
    from loader.weights import LONE_TENSOR, open_state

    return open_state(path)[LONE_TENSOR]


def _rows(
    made: Plan,
    compared: Mapping[str, Mapping[str, Placement]],
    told: Mapping[str, Sequence[Mapping[str, Any]]],
    outputs: Mapping[str, Any],
) -> list[dict[str, Any]]:
    # The first step of each packs weights and compiles.
    times = {
        name: Times(tuple(entry["seconds"] for entry in entries[1:]), quiet=True) for name, entries in told.items()
    }
    peaks = {name: max(entry["peak_bytes"] for entry in entries) for name, entries in told.items()}
    exact = outputs[PUBLISHED]
    return [
        {
            "config": name,
            "variant": made.variant,
            "size": list(made.size),
            "placed": {part: _words(placement) for part, placement in compared[name].items()},
            "first_seconds": told[name][0]["seconds"],
            "seconds": {"min": times[name].min, "median": times[name].median, "max": max(times[name].seconds)},
            "speed_up": round(ratio(times[PUBLISHED], times[name]), 2),
            "peak_bytes": peaks[name],
            "peak_share": round(peaks[name] / peaks[PUBLISHED], 3),
            "difference": float((outputs[name] - exact).norm() / exact.norm()),
        }
        for name in told
    ]


def _words(placement: Placement) -> str:
    return f"{placement.compute_dtype}, {placement.memory_format}, attention {placement.attention}, {placement.compile}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| configuration | s min | s median | s max | speed-up | peak | of fp32's | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds, peak = row["seconds"], row["peak_bytes"] / 2**30
        lines.append(
            f"| {row['config']} | {seconds['min']:.2f} | {seconds['median']:.2f} | {seconds['max']:.2f} "
            f"| {row['speed_up']}× | {peak:.2f} GiB | {row['peak_share']:.2f} | {row['difference']:.4f} |"
        )
    lines += ["", *(f"{row['config']}: {name} {words}" for row in rows for name, words in row["placed"].items())]
    return "\n".join(lines)


def main() -> None:
    """As the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the square in pixels (default: 256)")
    parser.add_argument("--frames", type=int, default=4, help="of the window (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each (default: 3)")
    parser.add_argument("--compile", action="store_true", help="compile where the plan does; the first step is long")
    parser.add_argument("--small", action="store_true", help="the miniature networks, to try the bench itself")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(json.loads(given.child), given.answers)
        return
    rows = measure(Window(given.size, given.frames, given.small), given.rounds, compiled=given.compile)
    print(json.dumps(rows, indent=1) if given.json else table(rows))


if __name__ == "__main__":
    main()
