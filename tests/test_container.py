"""The Dockerfile rehearsed in a clean folder: what it copies is enough to run, and none of it is ignored."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machines import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line]


def copied() -> list[str]:
    """Sources of every COPY, in order."""
    lines = re.findall(r"^COPY (?:--\S+ )?(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_everything_copied_is_there_and_not_ignored():
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in IGNORED), source


def test_it_runs_as_a_user_answers_a_health_check_and_takes_cpu_or_cuda():
    assert re.search(r"^USER (?!root)", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.index("USER ") > DOCKERFILE.index("apt-get")
    assert re.search(r"^HEALTHCHECK ", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^ARG TORCH=cpu$", DOCKERFILE, re.MULTILINE)
    assert "whl/${TORCH}" in DOCKERFILE


def test_what_the_image_holds_is_enough(tmp_path: Path):
    """Copied into an empty folder, the commands run there, away from this checkout."""
    app = tmp_path / "app"
    app.mkdir()
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, app / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, app / source)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ANYHOST_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "ANYHOST_PROBE_SECONDS": "0",
    }

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, "app.py", *words], cwd=app, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "serve" in run("--help")
    assert "detector" in run("plan", "--adapter", "damo_yolo")
    assert "24 coin" in run("run", "damo_yolo", "assets/examples/coins.png", "--out", str(tmp_path / "out"))
    assert "m, middle" in run("run", "metric3d", "assets/examples/depth_room.jpg", "--out", str(tmp_path / "out"))


def test_the_health_check_fails_where_nothing_answers():
    command = re.search(r'CMD \["python", "-c", "(.+)"\]\nCMD', DOCKERFILE)
    assert command is not None
    done = subprocess.run([sys.executable, "-c", command[1].replace("7860", "9")], capture_output=True)
    assert done.returncode != 0


@pytest.mark.parametrize("name", ["requirements.txt", "packages.txt"])
def test_what_is_installed_is_what_the_readme_s_commands_install(name):
    assert name in copied()
