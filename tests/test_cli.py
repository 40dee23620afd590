"""The command line as contracted: exit codes, JSON, errors in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import bench, doctor, exits, host, plan, run
from kit.images import open_picture
from kit.sizes import read_size
from loader.errors import InputError
from tests.machines import ROOT

COINS = ROOT / "assets" / "examples" / "coins.png"


def app(*words: str, cache: Path, check: bool = False) -> subprocess.CompletedProcess[str]:
    import os

    environ = {**os.environ, "ANYHOST_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "app.py", *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=check
    )


def test_plan_json_has_one_record_an_adapter(tmp_path):
    done = app("plan", "--host", "t4-16g", "--json", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    assert [r["adapter"] for r in records] == ["damo_yolo", "metric3d", "instantid", "aniportrait", "hunyuan3d"]
    assert all({"fits", "components", "decisions", "peak_bytes"} <= r.keys() for r in records)
    assert all(d["why"] for r in records for d in r["decisions"])


def test_a_refused_wish_exits_3_and_names_the_nearest(tmp_path):
    done = app("plan", "--host", "t4-16g", "--adapter", "damo_yolo", "--dtype", "bf16", "--json", cache=tmp_path)
    assert done.returncode == 3
    (record,) = json.loads(done.stdout)
    assert record["fits"] is False
    assert "no bf16 arithmetic" in record["decisions"][-1]["why"]


def test_wrong_use_exits_2_with_the_choices(tmp_path):
    done = app("plan", "--host", "no-such-host", cache=tmp_path)
    assert done.returncode == 2
    assert "t4-16g" in done.stderr
    assert "Traceback" not in done.stderr
    done = app("plan", "--adapter", "damo", cache=tmp_path)
    assert done.returncode == 2
    assert "damo_yolo" in done.stderr
    assert app("plan", "--size", "big", cache=tmp_path).returncode == 2


def test_a_host_file_is_planned_for(tmp_path):
    described = (ROOT / "loader" / "hosts" / "t4-16g.json").read_text()
    mine = tmp_path / "mine.json"
    mine.write_text(described.replace('"name": "t4-16g"', '"name": "mine"'))
    done = app("plan", "--host", str(mine), "--adapter", "damo_yolo", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "on mine" in done.stdout
    mine.write_text("{}")
    done = app("plan", "--host", str(mine), cache=tmp_path)
    assert done.returncode == 2
    assert "missing field" in done.stderr


def test_host_json_round_trips_through_plan(tmp_path):
    done = app("host", "--json", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    mine = tmp_path / "mine.json"
    mine.write_text(done.stdout)
    assert app("plan", "--host", str(mine), cache=tmp_path).returncode == 0
    # What was probed is kept, so that `plan` for this machine needs no torch and still knows the measured rates.
    kept = json.loads((tmp_path / "host.json").read_text())
    assert kept["cpu"]["name"] == json.loads(done.stdout)["cpu"]["name"]


def test_run_finds_coins_on_a_real_photograph(tmp_path):
    done = app("run", "damo_yolo", str(COINS), "--out", str(tmp_path / "out"), "--json", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["variant"] == "preview"
    assert "rendered scenes" in record["weights"]
    assert record["trace"][0]["event"] == "weights_unavailable"
    (output,) = record["outputs"]
    coins = [d for d in output["detections"] if d["label"] == "coin"]
    assert len(coins) >= 20
    height, width = open_picture(COINS).size
    assert all(0 <= d["box"][0] < d["box"][2] <= width and 0 <= d["box"][1] < d["box"][3] <= height for d in coins)
    assert all(Path(file).is_file() for file in output["files"])
    saved = json.loads(Path(output["files"][1]).read_text())
    assert "rendered scenes" in saved["settings"]["weights"]
    assert record["peak_bytes"]["host"] > 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "damo_yolo", "missing.png"], 2, "missing.png"),
        (["run", "damo_yolo", str(COINS), "--device", "cuda:0"], 3, "cpu"),
        (["run", "damo_yolo", str(COINS), "--set", "threshold=high"], 2, "float"),
        (["run", "damo_yolo", str(COINS), "--set", "colour=red"], 2, "threshold"),
        (["run", "damo_yolo", str(COINS), "--set", "threshold=7"], 2, "0..1"),
        (["run", "damo_yolo", str(COINS), "--checkpoint", str(ROOT / "README.md")], 1, "README.md"),
        (["run", "instantid", str(COINS)], 3, "accept"),
        (["bench", "damo_yolo", "--batch", "two"], 2, "1,2,4"),
    ],
)
def test_errors_are_one_line_with_the_right_code(words, code, says, tmp_path):
    done = app(*words, cache=tmp_path)
    assert done.returncode == code, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("anyhost:")]
    assert says in line
    assert "Traceback" not in done.stderr


def test_doctor_names_remedies(tmp_path):
    done = app("doctor", "--json", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    findings = {f["subject"]: f for f in json.loads(done.stdout)}
    assert "DAMO-YOLO preview" in findings
    assert findings["DAMO-YOLO preview"]["state"] == "on this disk"
    assert "MB to download" in findings["DAMO-YOLO T"]["state"]


def test_sizes_are_read_as_height_by_width():
    assert read_size("640x480") == (640, 480)
    assert read_size("640") == (640, 640)
    with pytest.raises(InputError, match="HEIGHT×WIDTH"):
        read_size("640 by 480")


def test_every_command_is_reachable():
    import argparse

    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for command in (plan, host, run, bench, doctor):
        command.add(commands)
    assert set(commands.choices) == {"plan", "host", "run", "bench", "doctor"}
    assert exits.REFUSED == 3
