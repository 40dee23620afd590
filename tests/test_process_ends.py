"""A long-running process: clean starts after kill -9 in the middle of writing, and a clean end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.client import Job

from commands.visitors import END_S, LOCK, visitors_folder
from loader.knowledge import Correction
from loader.measure import Cost, Store
from tests.file_server import Served, serving
from tests.machines import ROOT, engine_on, host_with

COINS = ROOT / "assets" / "examples" / "coins.png"

# --- kill -9 --------------------------------------------------------------------------------------------------------

WRITES = """
import sys
from pathlib import Path
from loader.measure import Cost, Store
from loader.runlog import RunLog
store = Store(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    store.record_run([f"a/b/cpu/fp32/{number % 300}x8", "a/b/cpu/fp32"], predicted=Cost(1, 9), measured=Cost(2, 9))
    if number == 200:
        print("writing", flush=True)
"""


def killed_while(script: str, *words: str, at: str) -> None:
    """Run ``script`` in a process of its own and kill it -9 when it has said ``at``."""
    command = [sys.executable, "-c", script, *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == at:
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL


def test_killed_while_it_writes_what_it_learned_the_next_start_knows_it_all(tmp_path):
    path = tmp_path / "learned.json"
    killed_while(WRITES, str(path), at="writing")
    store = Store(path)
    known = store.load()
    assert known.correction("a/b/cpu/fp32").seconds == pytest.approx(2.0)
    assert known.correction("a/b/cpu/fp32").runs >= 199
    assert not path.with_name("learned.json.corrupt").exists()
    store.record_run("c/d/cpu/fp32", predicted=Cost(1, 9), measured=Cost(3, 9))
    assert Store(path).load().correction("c/d/cpu/fp32") == Correction(3.0, 1.0, 1)


def test_what_a_killed_process_left_half_written_is_cleared_away_in_time(tmp_path):
    path = tmp_path / "learned.json"
    old, new = tmp_path / "learned.jsonabc.tmp", tmp_path / "learned.jsonxyz.tmp"
    for half in (old, new):
        half.write_text('{"format"')
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    Store(path).record_run("c/d/cpu/fp32", predicted=Cost(1, 9), measured=Cost(3, 9))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["learned.json", new.name], "another process may be at it now"


FETCHES = """
import sys
from pathlib import Path
from loader.fetch import fetch
from loader.folders import Folders
from loader.spec import Licence, Source, Weights
url, cache, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
def tell(progress):
    if progress.stage == "downloading" and progress.done > size // 4:
        print("half-way", flush=True)
found = fetch(Weights("net.bin", (Source("url", url),), size, Licence("x"), ("net",), bytes_exact=True),
              Folders(cache, (), cache), on_progress=tell)
print(found.path.read_bytes() == bytes(range(256)) * (size // 256), flush=True)
"""


def test_killed_while_it_downloads_the_next_start_goes_on_from_there(tmp_path):
    content = bytes(range(256)) * 4096
    with serving() as server:
        server.files["/net.bin"] = Served(content, pace_s=0.02)
        words = (server.url("/net.bin"), str(tmp_path), str(len(content)))
        killed_while(FETCHES, *words, at="half-way")
        server.files["/net.bin"] = Served(content)
        before = server.sent
        again = subprocess.run(
            [sys.executable, "-c", FETCHES, *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert again.stdout.split()[-1] == "True"
        assert server.sent - before < len(content), "what had come was kept"
        assert any(asked and asked.startswith("bytes=") for _, _, asked in server.seen)


# --- SIGTERM --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The server with one tab, so that it is up soon, and a detector whose unit takes as long as the first argument says.
SERVES = """
import sys, time
from adapters import adapter
from adapters.damo_yolo import pipeline
from app import main
from page import build
build.ADAPTERS, build.LANGUAGES = (adapter("damo_yolo"),), {"en": build.LANGUAGES["en"]}
seconds, detect = float(sys.argv[1]), pipeline._detect
def slow(parts, pictures, plan):
    if parts.plan.size == (320, 320):
        print("computing", flush=True)
        time.sleep(seconds)
    return detect(parts, pictures, plan)
pipeline._detect = slow
sys.exit(main(sys.argv[2:]))
"""


@contextmanager
def server_in(folder: Path, *, slow: float = 0.0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server whose folders lie in ``folder``, and its address; killed at the end if it still runs."""
    port = free_port()
    environ = {**os.environ, "ANYHOST_CACHE": str(folder / "cache"), "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    environ.pop("GRADIO_TEMP_DIR", None)
    environ |= {"PYTHONPATH": str(ROOT), "ANYHOST_ASSETS": str(ROOT)}
    command = [sys.executable, "-c", SERVES, str(slow), "serve", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert str(port) in process.stdout.readline()
            yield process, f"http://127.0.0.1:{port}/"
        finally:
            if process.poll() is None:
                process.kill()


def asked(address: str) -> Job:
    """A detection under way."""
    client = Client(address, verbose=False, analytics_enabled=False)
    return client.submit([handle_file(str(COINS))], variant="preview", size="320x320", api_name="/detect")


def left_in(folder: Path) -> list[str]:
    """What a server left of its visitors' files, and of files it was writing."""
    halves = [p.name for p in folder.rglob("*") if p.suffix in (".tmp", ".part") or p.name.startswith(".writing-")]
    return halves + [p.name for p in folder.glob("anyhost-*")]


@pytest.mark.alone
@pytest.mark.parametrize(("slow", "code"), [(1.5, 0), (60.0, 143)])
def test_told_to_end_while_it_computes_it_ends_in_seconds(tmp_path, slow, code):
    """A unit that ends soon is let end; one that takes a minute is left. Nothing half written remains either way."""
    with server_in(tmp_path, slow=slow) as (process, address):
        with urllib.request.urlopen(f"{address}config", timeout=60) as page:
            assert json.load(page)["title"]
        job = asked(address)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "computing"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        took = time.monotonic() - began
    assert process.returncode == code
    assert took < END_S + 4
    assert "Traceback" not in errors
    assert left_in(tmp_path) == []
    with pytest.raises(Exception, match=r".*"):
        job.result(timeout=10)


WAITS = """
import sys, time
from pathlib import Path
from commands.serve import _ending
_ending(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_signal_leaves_at_once(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", WAITS, str(folder)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None, "the first one lets work end"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert time.monotonic() - began < END_S
    assert not folder.exists()


def test_what_visitors_left_in_a_server_that_was_killed_goes_when_the_next_one_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    dead, strange = tmp_path / "anyhost-dead", tmp_path / "anyhost-notes"
    for folder in (dead, strange):
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "portrait.png").write_text("somebody")
    (dead / LOCK).touch()
    with visitors_folder() as alive:
        assert not dead.exists()
        assert (strange / "files" / "portrait.png").exists(), "without a lock it is not a server's"
        assert os.environ["GRADIO_TEMP_DIR"] == str(alive / "files")
        with visitors_folder() as beside:
            assert alive.exists(), "its server lives"
            assert beside != alive
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anyhost-notes"]


def test_the_run_log_survives_a_line_cut_short(tmp_path: Path):
    from loader.runlog import RunLog
    from tests.staged_adapter import Asked, spec_named

    path = tmp_path / "runs.log"
    path.write_text("2026-01-01 00:00:00  damo_yo")
    engine = engine_on(host_with(), tmp_path)
    assert isinstance(engine._log, RunLog)
    list(engine.run(spec_named(), Asked(("text",))))
    engine.close()
    assert path.read_text().splitlines()[1].endswith("on cpu"), "a run begins on a line of its own"
