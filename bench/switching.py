"""Models of SDXL's sizes through less memory than they take together: what it takes to switch, and is the limit kept?

    python -m bench.switching --caps 3 4 6 [--scale 1.0] [--device cuda:0] [--json]

Four networks of 1.1 to 2.5 GB (random weights, in fp16 files as published ones are; computed in bf16 here) are four
models, asked for by turns. Each cap is a process of its own that cannot have more: on a CPU the kernel refuses it data
beyond that (``RLIMIT_DATA``, see ``hold_to``), on a card the allocator beyond its share of it. The first round
reads files that the kernel may still have in memory, the second reads them from the disk, the third asks for the last
one again. Last, one model of four stages that are those networks.
"""

import argparse
import hashlib
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.apart import apart
from loader.engine import Engine
from loader.folders import Folders
from loader.host import GIB, Host
from loader.measure import PeakMeter, Store, anonymous_bytes
from loader.memory import device_budget, host_budget
from loader.outcome import Result, Unit
from loader.pipeline import Parts, Work
from loader.plan import Plan
from loader.probe import probe
from loader.process import data_bytes, limit_data, limit_device, return_freed_memory
from loader.spec import Activation, AdapterSpec, Component, CpuOnly, Licence, Variant
from loader.spec import Work as Arithmetic
from loader.strict import load_strict
from loader.weights import load_component, open_state
from loader.wishes import Wishes

PARAMETERS = {"text_encoder_2": 0.695e9, "identity_net": 1.251e9, "half_a_unet": 1.1e9, "vision_encoder": 0.55e9}
WIDTH, LEAST_WIDTH, ROWS, SEED = 4096, 512, 4, 7
FREE_LICENCE = Licence("none: random weights")
WITHIN = 0.15


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


class Stack(nn.Module):
    """``count`` layers of ``width``; ``x`` is ``[N, width]``."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@dataclass(frozen=True)
class Shape:
    """A network's width and number of layers."""

    width: int
    count: int

    @property
    def params(self) -> int:
        return self.count * (self.width**2 + self.width)


def shapes(scale: float) -> dict[str, Shape]:
    """The networks' shapes at ``scale`` times their size."""
    width = WIDTH if scale >= 1 else LEAST_WIDTH
    return {name: Shape(width, max(1, round(n * scale / width**2))) for name, n in PARAMETERS.items()}


# --- files and models -----------------------------------------------------------------------------------------------


def write(folder: Path, scale: float) -> None:
    """A file of random fp16 weights for each network. One layer's are drawn; the others are the same, turned round."""
    for name, shape in shapes(scale).items():
        drawn = torch.randn(shape.width, shape.width, generator=torch.Generator().manual_seed(SEED))
        layer = (drawn / shape.width**0.5).half().numpy()
        header, end = {}, 0
        for index in range(shape.count):
            for part, dims in (("weight", [shape.width, shape.width]), ("bias", [shape.width])):
                size = 2 * (shape.width ** len(dims))
                at = {"dtype": "F16", "shape": dims, "data_offsets": [end, end + size]}
                header[f"layers.{index}.linear.{part}"], end = at, end + size
        words = json.dumps(header).encode()
        with _file(folder, name).open("wb") as file:
            file.write(struct.pack("<Q", len(words)) + words)
            for index in range(shape.count):
                for rows in (layer[index:], layer[:index]):
                    file.write(rows.tobytes())
                file.write(bytes(2 * shape.width))
            file.flush()
            os.fsync(file.fileno())


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def forget_file(path: Path) -> None:
    """Let the kernel drop what it keeps of a file in memory, where there is a way to say so."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def spec_of(name: str, networks: Mapping[str, Shape], folder: Path) -> AdapterSpec:
    """A model of ``networks``, a stage each."""
    components = tuple(
        Component(
            name=component,
            stage=component,
            n_params=shape.params,
            dtypes=("bf16", "fp16", "fp32"),
            activation=Activation(fixed=8 * ROWS * shape.width * 4, per_pixel=0.0),
            work=Arithmetic(2 * ROWS * shape.params / 1e9, 0.0, per="run"),
            repeated_block="Layer",
            block_count=shape.count,
        )
        for component, shape in networks.items()
    )
    config = {"folder": str(folder)} | {f"{n}_{k}": v for n, s in networks.items() for k, v in vars(s).items()}
    variant = Variant(
        "random", "Random", components, (), sizes=((8, 8),), size_multiple=1, input_range=(1, 64), config=config
    )
    return AdapterSpec(
        name=name,
        title=name,
        task="bench",
        variants=(variant,),
        default="random",
        cpu_only=CpuOnly("random", (8, 8), 1),
        smaller=("random",),
        code_licence=FREE_LICENCE,
        upstream="none",
        endpoint="/none",
        max_drift=1.0,
        drift_metric="none",
        pipeline="bench.switching:build_pipeline",
    )


class Switching:
    """See ``loader.pipeline.Pipeline``; a request is nothing."""

    own_edges: Mapping[str, tuple[str, ...]] = {}

    def load(self, component: str, plan: Plan, files: Mapping[str, Path], checkpoint: Path | None) -> nn.Module:
        """The network with the weights of its file."""
        del files, checkpoint
        config = plan.situation.spec.variant(plan.variant).config
        width, count = (int(config[f"{component}_{what}"]) for what in ("width", "count"))
        state = open_state(_file(Path(str(config["folder"])), component))
        return load_component(lambda: Stack(width, count), _fill, component, state)

    def run(self, parts: Parts, request: None) -> Work:
        """Each network once on the same random input; returns the digests of their outputs."""
        del request
        digests = []
        for name in [placement.name for placement in parts.plan.components]:
            digests.append((yield Unit(name, name, partial(_computed, parts, name))))
        return tuple(digests)

    def sample(self, plan: Plan) -> None:
        """None: nothing is to be judged."""
        del plan

    def drift(self, reference: tuple[Any, ...], outputs: tuple[Any, ...]) -> float:
        """0 for the same output, else 1."""
        return float(reference != outputs)


def build_pipeline() -> Switching:
    """As the specs name it."""
    return Switching()


def _fill(module: nn.Module, component: str, state: Mapping[str, Tensor]) -> None:
    load_strict(module, state, what=f"bench {component}")


def _computed(parts: Parts, name: str, plan: Plan) -> str:
    width = int(plan.situation.spec.variant(plan.variant).config[f"{name}_width"])
    x = torch.randn(ROWS, width, generator=parts.seeded(SEED))
    found: Tensor = parts.call(name, x)
    return hashlib.sha256(found.float().cpu().numpy().tobytes()).hexdigest()[:16]


# --- the process of one cap -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One cap. ``cap`` is in bytes; ``scale`` 1 for full size."""

    cap: int
    scale: float
    folder: Path
    device: str = "cpu"


def capped(host: Host, asked: Asked) -> Host:
    """The machine with ``cap`` bytes of free RAM, or of free memory on its card."""
    if asked.device == "cpu":
        return replace(host, ram_bytes=asked.cap, free_ram_bytes=asked.cap, accelerators=())
    (card,) = (a for a in host.accelerators if a.device == asked.device)
    return replace(host, accelerators=(replace(card, memory_bytes=asked.cap, free_bytes=asked.cap),))


def hold_to(asked: Asked) -> None:
    """From now on this process gets no more than the cap, and what one file takes while it is read.

    torch maps files so that they could be written to, which the kernel counts as data; their pages it can drop.
    """
    if asked.device == "cpu":
        largest = max(2 * shape.params for shape in shapes(asked.scale).values())
        limit_data(data_bytes() + asked.cap + largest)
    else:
        limit_device(asked.device, asked.cap)


def measured(asked: Asked) -> dict[str, Any]:
    """Everything by turns in this process, which must be new."""
    folders = Folders(cache=asked.folder / f"cache-{asked.cap}", own=(), assets=asked.folder)
    host = capped(probe(cache_dir=folders.cache, environ={**os.environ, "ANYHOST_PROBE_SECONDS": "0"}), asked)
    Stack(LEAST_WIDTH, 1).bfloat16()(torch.zeros(1, LEAST_WIDTH).bfloat16())  # whatever is made at a first call
    return_freed_memory()
    base = anonymous_bytes()
    hold_to(asked)
    engine = Engine(host, folders, Store(folders.cache / "learned.json"))
    networks = shapes(asked.scale)
    try:
        rows = list(turns(engine, asked, base))
        chain = _turn(engine, spec_of("all_of_them", networks, asked.folder), asked, base, "chain")
    finally:
        engine.close()
    budget = host_budget(host) if asked.device == "cpu" else device_budget(host.accelerators[0])
    return {"cap_bytes": asked.cap, "budget_bytes": budget, "device": asked.device, "rows": [*rows, chain]}


def turns(engine: Engine, asked: Asked, base: int) -> Iterator[dict[str, Any]]:
    """The models one after the other: files as they are, files from the disk, and the last one again."""
    specs = {name: spec_of(name, {name: shape}, asked.folder) for name, shape in shapes(asked.scale).items()}
    for name, spec in specs.items():
        yield _turn(engine, spec, asked, base, "first") | {"model": name}
    for name, spec in specs.items():
        if engine.residency.held_bytes(name, others=False) == {}:
            forget_file(_file(asked.folder, name))
        yield _turn(engine, spec, asked, base, "from disk") | {"model": name}
    yield _turn(engine, spec, asked, base, "again") | {"model": name}


def _turn(engine: Engine, spec: AdapterSpec, asked: Asked, base: int, turn: str) -> dict[str, Any]:
    """One run: from which state each component was woken and in what time; peaks of all that is held."""
    book, pool = engine.residency.book, "host" if asked.device == "cpu" else asked.device
    before = {key: item.state for key, item in book.items.items()}
    held = book.held().get(pool, 0)
    wishes = Wishes(device=asked.device, dtype="bf16" if asked.device == "cpu" else "fp16", compile="none")
    entered = anonymous_bytes() - base
    with PeakMeter(asked.device) as meter:
        *_, result = engine.run(spec, None, wishes)
    assert isinstance(result, Result)
    mine = [key for key in book.items if key.startswith(f"{spec.name}/")]
    beside = sum(i.bytes().get(pool, 0) for key, i in book.items.items() if key not in mine)
    own = result.plan.peak_bytes["host" if pool == "host" else "device"]
    peak = entered + meter.bytes["host"] if pool == "host" else meter.bytes["device"]
    woken = {key.partition("/")[2].split()[0]: before.get(key, "dropped") for key in mine}
    return {
        "model": spec.name,
        "turn": turn,
        "residency": result.plan.components[0].residency,
        "bytes": sum(result.component_bytes.values()),
        "woken_from": woken,
        "wake_seconds": sum(book.items[key].seconds.get(before.get(key, "dropped"), 0.0) for key in mine)
        if "awake" not in woken.values()
        else 0.0,
        "run_seconds": result.seconds,
        "predicted_peak_bytes": max(held, beside + own),
        "measured_peak_bytes": peak,
        "evicted": sorted(k.partition("/")[0] for k, state in before.items() if _height(book, k) < _ORDER[state]),
        "trace": [entry.event for entry in result.trace],
        "output": list(result.outputs),
    }


_ORDER = {"dropped": 0, "asleep": 1, "awake": 2}


def _height(book: Any, key: str) -> int:
    return _ORDER[book.items[key].state] if key in book.items else 0


# --- the report -----------------------------------------------------------------------------------------------------


def problems(told: Mapping[str, Any]) -> list[str]:
    """What of one cap's turns is not as it should be."""
    found = []
    for row in told["rows"]:
        where = f"cap {told['cap_bytes'] / GIB:g} GiB, {row['model']} ({row['turn']})"
        if row["measured_peak_bytes"] > told["cap_bytes"]:
            found.append(f"{where}: {row['measured_peak_bytes']:,} bytes are more than the cap")
        if abs(_ratio(row) - 1) > WITHIN:
            found.append(f"{where}: the measured peak is {_ratio(row):.2f} of the predicted one")
        if row["trace"]:
            found.append(f"{where}: {', '.join(row['trace'])}")
    outputs: dict[str, set[str]] = {}
    for row in told["rows"]:
        outputs.setdefault(row["model"], set()).add(" ".join(row["output"]))
    return found + [f"{name} gave {len(ways)} different outputs" for name, ways in outputs.items() if len(ways) > 1]


def _ratio(row: Mapping[str, Any]) -> float:
    return float(row["measured_peak_bytes"] / row["predicted_peak_bytes"])


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results as Markdown: a row for each turn."""
    lines = [
        "| cap | model | GB | was | awake after | ran | peak predicted | measured | ratio | left for it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for told in results:
        for row in told["rows"]:
            was = ", ".join(sorted(set(row["woken_from"].values())))
            was += " (file from the disk)" if row["turn"] == "from disk" and "dropped" in was else ""
            peaks = [f"{row[f'{which}_peak_bytes'] / GIB:.2f}" for which in ("predicted", "measured")]
            lines.append(
                f"| {told['cap_bytes'] / GIB:g} GiB | {row['model']} | {row['bytes'] / 1e9:.2f} | {was} "
                f"| {row['wake_seconds']:.2f} s | {row['run_seconds']:.2f} s | {peaks[0]} GiB | {peaks[1]} GiB "
                f"| {_ratio(row):.2f} | {', '.join(row['evicted']) or 'none'} |"
            )
    return "\n".join(lines)


def main() -> int:
    """As the module's docstring; fails if a cap, a prediction or an output was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--caps", type=float, nargs="+", default=[3.0, 4.0, 6.0], help="GiB (default: 3 4 6)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the networks' sizes (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu, or an accelerator such as cuda:0")
    parser.add_argument("--json", action="store_true", help="a line for each cap as it ends")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.scale)
        results = []
        for cap in args.caps:
            results.append(apart(measured, None, Asked(int(cap * GIB), args.scale, Path(folder), args.device)))
            if args.json:
                print(json.dumps(results[-1]), flush=True)
    if not args.json:
        print(table(results))
    wrong = [problem for told in results for problem in problems(told)]
    print(*wrong, sep="\n", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
