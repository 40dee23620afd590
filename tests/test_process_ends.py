"""A long-running process: flat memory, clean starts after kill -9 in the middle of writing, and a clean end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from loader.knowledge import Correction
from loader.measure import Cost, Store
from tests.file_server import Served, serving
from tests.machines import ROOT, engine_on, host_with
from tests.soak import WARM, real, soak, synthetic

# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory_is_flat_over_many_mixed_requests(tmp_path):
    """Models of several kinds by turns, stopped and failing ones among them. ``make soak`` runs the long version."""
    engine = engine_on(host_with(), tmp_path)
    samples = list(soak(engine, [*real(engine)[:1], *synthetic()], 80))
    engine.close()
    early, late = (max(s.resident for s in part) for part in (samples[:WARM], samples[-WARM:]))
    assert late <= 1.05 * early
    assert set(samples[-1].ended) == {"done", "stopped", "failed"}
    assert samples[-1].ended["done"] > 50


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


def test_told_to_end_the_server_ends_cleanly(tmp_path):
    port = free_port()
    environ = {**os.environ, "ANYHOST_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environ.pop("GRADIO_TEMP_DIR", None)
    command = [sys.executable, "app.py", "serve", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert str(port) in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=30) as page:
            assert json.load(page)["title"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert [p for p in tmp_path.iterdir() if p.name.startswith("anyhost-")] == []


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
