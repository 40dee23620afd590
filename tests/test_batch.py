"""Folders: each output exactly once, whatever interrupts the run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.exports import OutputError
from kit.folder_run import LEDGER, PARTIAL, Ledger, inputs_in, tasks, work_through
from loader.errors import InputError
from tests.machines import ROOT


@pytest.fixture
def folder(tmp_path):
    inputs = tmp_path / "in"
    (inputs / "below").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "below/a.txt", ".hidden", "bad.txt"):
        (inputs / name).write_text(name)
    return inputs


class Copier:
    """A job that copies; "bad" inputs are refused, and it may be stopped at its n-th input."""

    def __init__(self, stop_at: int = 0) -> None:
        self.seen: list[str] = []
        self.stop_at = stop_at

    def __call__(self, path: Path, folder: Path) -> list[dict]:
        self.seen.append(path.name)
        (folder / "half.txt").write_text("half")
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        if path.stem == "bad":
            raise InputError("bad.txt cannot be used")
        (folder / "copy.txt").write_text(path.read_text())
        return [{"input": path.name, "files": [str(folder / "copy.txt")]}]


def run(folder, out, job, *, settings="s", retry=False, workers=1):
    ledger, left = tasks(folder, out, settings, retry=retry)
    return list(work_through(left, ledger, job, workers=workers))


def test_each_input_gets_its_outputs_and_a_bad_one_its_reason(folder, tmp_path):
    out = tmp_path / "out"
    entries = {e.input: e for e in run(folder, out, Copier())}
    assert sorted(entries) == ["a.txt", "b.txt", "bad.txt", "below/a.txt"]
    assert (entries["bad.txt"].state, entries["bad.txt"].error) == ("failed", "bad.txt cannot be used")
    assert entries["below/a.txt"].outputs[0]["files"] == ["below/a.txt/copy.txt"]
    assert (out / "below/a.txt/copy.txt").read_text() == "below/a.txt"
    assert not (out / "bad.txt").exists()
    assert not (out / PARTIAL).exists()


def test_a_second_run_does_nothing_and_a_retry_only_what_failed(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out, Copier())
    again = Copier()
    assert run(folder, out, again) == []
    assert again.seen == []
    retried = Copier()
    run(folder, out, retried, retry=True)
    assert retried.seen == ["bad.txt"]


def test_a_changed_input_or_other_settings_are_done_again(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out, Copier())
    (folder / "a.txt").write_text("longer than before")
    changed = Copier()
    run(folder, out, changed)
    assert changed.seen == ["a.txt"]
    assert (out / "a.txt/copy.txt").read_text() == "longer than before"
    other = Copier()
    run(folder, out, other, settings="t")
    assert sorted(other.seen) == ["a.txt", "a.txt", "b.txt", "bad.txt"]


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_what_was_stopped_goes_on_and_nothing_is_done_twice(folder, tmp_path, stop_at):
    out, first, second = tmp_path / "out", Copier(stop_at), Copier()
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, first)
    run(folder, out, second)
    finished = first.seen[:-1] + second.seen
    assert sorted(finished) == ["a.txt", "a.txt", "b.txt", "bad.txt"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("copy.txt")) == [
        "a.txt/copy.txt",
        "b.txt/copy.txt",
        "below/a.txt/copy.txt",
    ]


def test_an_output_in_place_that_the_ledger_lacks_is_entered_not_made_again(folder, tmp_path):
    """The moment between the rename and the ledger's line."""
    out = tmp_path / "out"
    run(folder, out, Copier())
    lines = (out / LEDGER).read_text().splitlines()
    (out / LEDGER).write_text("\n".join(line for line in lines if '"b.txt"' not in line) + "\n")
    again = Copier()
    run(folder, out, again)
    assert again.seen == []
    assert "b.txt" in Ledger(out).entries


def test_a_line_cut_off_by_a_crash_loses_nothing_else(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out, Copier())
    with (out / LEDGER).open("a") as file:
        file.write('{"input": "z.txt", "by')
    (folder / "new.txt").write_text("new")
    run(folder, out, Copier())
    assert sorted(Ledger(out).entries) == ["a.txt", "b.txt", "bad.txt", "below/a.txt", "new.txt"]


def test_several_workers_do_each_input_once(folder, tmp_path):
    for number in range(30):
        (folder / f"{number}.txt").write_text(str(number))
    job = Copier()
    entries = run(folder, tmp_path / "out", job, workers=4)
    assert len(job.seen) == len(entries) == 34
    assert len({e.input for e in entries}) == 34


def test_outputs_inside_the_folder_of_inputs_are_no_inputs(folder):
    out = folder / "out"
    run(folder, out, Copier())
    assert all("out" not in path.relative_to(folder).parts for path in inputs_in(folder, out))


def test_a_full_disk_ends_the_run_with_what_was_done(folder, tmp_path, monkeypatch):
    out, job = tmp_path / "out", Copier()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    ledger, left = tasks(folder, out, "s", retry=False)
    entries = work_through(left, ledger, job)
    assert next(entries).input == "a.txt"
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="No space left"):
        list(entries)
    assert "a.txt" in Ledger(out).entries


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_no_folder_or_an_empty_one_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="folder"):
        tasks(tmp_path / name, tmp_path / "out", "s", retry=False)


def test_killed_in_the_middle_and_run_again_from_the_command_line(tmp_path):
    """One corrupt picture among twelve, ``kill -9`` after the third: each is worked on exactly once in all."""
    import shutil

    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for number in range(12):
        shutil.copy(ROOT / "assets/examples/scene_wood.jpg", inputs / f"{number:02d}.jpg")
    (inputs / "05.jpg").write_bytes(b"no picture")
    environ = {**os.environ, "ANYHOST_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "app.py", "batch", "damo_yolo", str(inputs), "--out", str(out), "--json"]
    started = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    first = [json.loads(started.stdout.readline())["input"] for _ in range(3)]
    started.send_signal(signal.SIGKILL)
    started.wait()
    started.stdout.close()
    time.sleep(0.1)
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stderr
    assert not set(first) & {line["input"] for line in lines[:-1]}
    entries = Ledger(out).entries
    assert {name: e.state for name, e in entries.items()} == {
        f"{n:02d}.jpg": "failed" if n == 5 else "done" for n in range(12)
    }
    written = (out / LEDGER).read_text().splitlines()
    assert len(written) == 12
    assert len(list(out.rglob("*-detections.json"))) == 11


@pytest.mark.parametrize("words", [["--address", "auto"], ["--replicas", "2"], ["--cores", "1"]])
def test_what_is_for_replicas_is_refused_without_them(folder, tmp_path, words, capsys):
    import app

    assert app.main(["batch", "damo_yolo", str(folder), "--out", str(tmp_path / "out"), *words]) == 2
    assert "go with --ray" in capsys.readouterr().err
