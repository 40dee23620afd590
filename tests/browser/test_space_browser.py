"""A rehearsal of a CPU Space: its file set, environment and limits, its page driven in a browser. No hub is needed."""

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, expect

from adapters import ADAPTERS
from kit.parts.context import PageContext
from kit.parts.planning import Planning
from kit.texts import flips_when
from kit.texts.labels import label
from kit.texts.report import seconds_text
from loader.host import load_host
from loader.plan import plan
from loader.wishes import Wishes
from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, wait_for
from tests.machines import engine_on

pytestmark = pytest.mark.browser
RAM = 16 * 2**30
LARGEST_PLAIN_FILE = 10 * 2**20  # a Space takes larger ones through Git LFS alone
NOT_DEPLOYED = ("tests/", ".ci/")


def tracked_files() -> list[Path]:
    """What a push to a Space carries: the repository's files, as they are here."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listed.returncode:  # an unpacked archive: everything in it
        ignored = {".venv", ".git", "__pycache__"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not ignored & set(p.relative_to(ROOT).parts)]
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [path for name in names if (path := ROOT / name).is_file()]


@dataclass(frozen=True)
class Space:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    home: Path


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    folder = tmp_path_factory.mktemp("space")
    app, home, temporary = folder / "app", folder / "home", folder / "tmp"
    for path in tracked_files():
        name = path.relative_to(ROOT)
        if not name.as_posix().startswith(NOT_DEPLOYED):
            (app / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, app / name)
    for made in (home, temporary):
        made.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "tests" / "space_guard"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GUARD_WRITABLE": os.pathsep.join([str(home), str(temporary)]),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "SYSTEM": "spaces",
        "SPACE_ID": "somebody/anyhost",
        "CPU_CORES": "2",
        "MEMORY": "16Gi",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "ANYHOST_PROBE_SECONDS": "0",
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=app,
            env=environ,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (RAM, RAM)),
        )
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_for(process, url, log)
        yield Space(url, process, log, home)
    finally:
        process.terminate()
        process.wait(30)


def test_no_file_is_too_large_for_a_plain_push():
    large = [str(path.relative_to(ROOT)) for path in tracked_files() if path.stat().st_size > LARGEST_PLAIN_FILE]
    assert large == []


def test_the_readme_s_front_matter_names_what_is_installed():
    front = (ROOT / "README.md").read_text(encoding="utf-8").split("---")[1]
    settings = dict(line.split(": ", 1) for line in front.strip().splitlines())
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert settings["sdk"] == "gradio"
    assert f"gradio=={settings['sdk_version']}\n" in requirements
    assert (ROOT / settings["app_file"]).is_file()
    assert settings["python_version"].startswith("3.12")
    assert len(settings["short_description"]) <= 60
    assert (ROOT / "packages.txt").read_text(encoding="utf-8").split() == ["g++"]


def test_the_page_of_a_cpu_space_detects_and_measures(space: Space, browser: Browser):
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(space.url, wait_until="domcontentloaded")
    expect(page.locator("body")).to_contain_text("Hugging Face Space", timeout=PATIENCE)
    page.locator("#detect-examples button:has(img[alt='coins'])").click()
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    page.click("#detect-run")
    expect(page.locator("#detect-image img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-counts")).to_contain_text(re.compile("24"), timeout=PATIENCE)
    page.get_by_role("tab", name="Metric3D").click()
    page.locator("#depth-examples button").first.click()
    expect(page.locator("#depth-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
    page.click("#depth-run")
    expect(page.locator("#depth-run")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#depth-figures")).to_contain_text(re.compile("[GM]i?B"), timeout=PATIENCE)
    log = space.log.read_text(errors="replace")
    assert "GUARD" not in log, log
    # Gradio's watcher of changed files wants the platform's own package, which is there on a Space and not here.
    own = [line for line in log.splitlines() if re.match(r"\w+(\.\w+)*(Error|Exception): ", line.strip())]
    assert [line for line in own if "run hot-reloading in Spaces" not in line] == [], log
    assert psutil.Process(space.process.pid).memory_info().rss < RAM / 4
    assert space.process.poll() is None


GENERATORS = {"InstantID": "identity", "AniPortrait": "animate", "Hunyuan3D-1": "mesh"}


def test_generators_of_a_cpu_space_say_how_long_before_the_press(space: Space, browser: Browser):
    """On the button itself, or why it cannot be pressed and what would do."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    page.goto(space.url, wait_until="domcontentloaded")
    for title, prefix in GENERATORS.items():
        page.get_by_role("tab", name=title, exact=True).click()
        button = page.locator(f"#{prefix}-run")
        expect(button).to_be_visible(timeout=PATIENCE)
        expect(button).to_contain_text(re.compile(r"\(about \d+(\.\d+)? (s|min|h)\)"), timeout=PATIENCE)
        expect(page.locator(f"#{prefix}-plan")).to_contain_text("on the CPU", timeout=PATIENCE)
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 1
    page.close()


@pytest.mark.parametrize("name", ["cpu-basic", "jetson-nano-4g"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_button_of_a_generator_says_how_long_or_the_card_what_would_do(name: str, language: str, tmp_path: Path):
    context = PageContext(engine_on(load_host(name), tmp_path), language)
    for spec in ADAPTERS:
        shown = Planning(context, spec).show(Wishes())
        made = plan(spec, load_host(name))
        action = label(f"{spec.endpoint.strip('/')}.run", language)
        if made.fits and made.predicted_seconds >= 60:
            assert shown.button != action
            assert shown.button.startswith(action)
            assert seconds_text(made.predicted_seconds) in shown.button
        else:
            assert shown.button == action
        if not made.fits:
            assert made.refusal is not None
            assert flips_when(made.refusal, language) in shown.card or made.refusal.rejected


def test_generators_are_planned_honestly_on_a_cpu_space():
    """What the page says of them there: a time, or a refusal that names what would do."""
    host = load_host("cpu-basic")
    for spec in ADAPTERS:
        made = plan(spec, host)
        assert made.fits or made.refusal is not None
        if made.fits:
            assert made.predicted_seconds > 0
            assert made.peak_bytes["host"] <= host.ram_bytes
