"""Models by turns through less memory than they take together, in small, under a limit that the kernel enforces."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import switching
from loader.engine import Engine
from loader.folders import Folders
from loader.host import GIB
from loader.measure import Store
from loader.process import data_bytes
from tests.fake_accelerator import fake_accelerator, fake_card
from tests.machines import ROOT, host_with

MIB = 2**20
SCALE = 0.04  # 22 to 50 million parameters, 44 to 100 MB
TINY = 0.005  # half precision is computed slowly here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("networks")
    switching.write(made, SCALE)
    return made


@pytest.fixture(scope="module")
def told(folder: Path) -> dict:
    """Room for one or two of the four, less than half of all."""
    cap = 512 * MIB + 130 * MIB  # the margin of a small machine, and what models may take
    return switching.apart(switching.measured, None, switching.Asked(cap, SCALE, folder))


def test_everything_runs_within_a_cap_smaller_than_the_sum(told):
    whole = sum(2 * shape.params for shape in switching.shapes(SCALE).values())
    assert told["budget_bytes"] < whole / 2
    assert len(told["rows"]) == 2 * 4 + 1 + 1
    for row in told["rows"]:
        assert 0 < row["measured_peak_bytes"] <= told["cap_bytes"]
        assert row["measured_peak_bytes"] <= told["budget_bytes"] * 1.15
        assert row["trace"] == [], "memory ran out on the way"
        # The 16 MiB that are planned for libraries weigh more in small.
        assert row["measured_peak_bytes"] == pytest.approx(row["predicted_peak_bytes"], rel=0.15, abs=20 * MIB)


def test_who_was_away_comes_back_from_its_file_and_gives_what_it_gave_before(told):
    turns = {(row["model"], row["turn"]): row for row in told["rows"]}
    away = [
        row for row in told["rows"] if row["turn"] == "from disk" and set(row["woken_from"].values()) == {"dropped"}
    ]
    assert away, "nobody had to leave"
    assert all(row["wake_seconds"] > 0 for row in away)
    assert any(row["evicted"] for row in away)
    again = turns["vision_encoder", "again"]
    assert set(again["woken_from"].values()) == {"awake"}
    assert again["wake_seconds"] == 0
    for name in switching.PARAMETERS:
        assert turns[name, "first"]["output"] == turns[name, "from disk"]["output"]
    chain = turns["all_of_them", "chain"]
    assert chain["residency"] == "dropped"
    assert chain["output"] == [turns[name, "first"]["output"][0] for name in switching.PARAMETERS]


def test_the_limit_is_the_kernel_s():
    """Otherwise nothing above would have been shown."""
    script = (
        "import torch; from loader.process import data_bytes, limit_data; limit_data(data_bytes() + 2**27);"
        "torch.ones(2**24, dtype=torch.uint8)\n"
        "try: torch.ones(2**28, dtype=torch.uint8)\n"
        "except RuntimeError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "memory" in run.stdout
    assert data_bytes() > 0
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY, "this process was limited"


def test_on_an_accelerator_they_sleep_and_wake(tmp_path: Path):
    """The same turns on the fake device: away from it but in host memory, and back."""
    switching.write(tmp_path, TINY)
    shapes = switching.shapes(TINY)
    # What a driver and libraries take, and then two and a half of the largest.
    room = 300 * MIB + 256 * MIB + int(2.5 * max(2 * shape.params for shape in shapes.values()))
    card = replace(fake_card(room), link_gbs=10.0)
    host = replace(host_with(card), free_ram_bytes=4 * GIB, ram_bytes=4 * GIB)
    asked = switching.Asked(room, TINY, tmp_path, "fake:0")
    with fake_accelerator(room) as memory:
        engine = Engine(host, Folders(tmp_path, (), tmp_path), Store(tmp_path / "learned.json"))
        rows = list(switching.turns(engine, asked, 0))
        engine.close()
        peak = memory.peak
    assert peak <= asked.cap
    slept = [row for row in rows if "asleep" in row["woken_from"].values()]
    assert slept
    assert all(row["wake_seconds"] > 0 for row in slept)
    assert all(row["trace"] == [] for row in rows)


def test_problems_are_named_and_the_table_has_a_row_for_each_turn(told):
    row = told["rows"][0]
    over = told | {"rows": [row | {"measured_peak_bytes": told["cap_bytes"] + 1, "trace": ["out_of_memory"]}]}
    found = " ".join(switching.problems(over))
    assert "more than the cap" in found
    assert "of the predicted one" in found
    assert "out_of_memory" in found
    other = told | {"rows": [row, row | {"output": ["else"]}]}
    assert "2 different outputs" in " ".join(switching.problems(other))
    assert switching.table([told]).count("\n") == 1 + len(told["rows"])
    json.dumps(told)
