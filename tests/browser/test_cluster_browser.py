"""The page before two replicas that plan as two different machines: it detects, stops, and survives the loss of one."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from kit.texts.labels import label
from loader.host import load_host
from tests.browser.chromium import PATIENCE
from tests.browser.server import ROOT, Served, served

pytestmark = pytest.mark.browser
HOSTS = ("cpu-amx", "cpu-avx2")
MANY = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    command = ("-m", "tests.browser.cluster_app", *HOSTS)
    with served(tmp_path_factory.mktemp("served"), command, RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1") as running:
        yield running


@pytest.fixture
def page(server: Served, browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1360, "height": 900})
    opened.set_default_timeout(PATIENCE)
    opened.goto(server.url, wait_until="domcontentloaded")
    expect(opened.locator("#detect-plan")).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
    yield opened
    opened.close()


def give(page: Page, *pictures: Path) -> None:
    page.set_input_files("#detect-pictures input[type=file]", list(pictures))
    expect(page.locator("#detect-pictures .gallery-item img")).to_have_count(len(pictures), timeout=PATIENCE)


def many(folder: Path) -> list[Path]:
    """Files of the same picture."""
    coins = (ROOT / "assets/examples/coins.png").read_bytes()
    paths = [folder / f"{number:02d}.png" for number in range(MANY)]
    for path in paths:
        path.write_bytes(coins)
    return paths


def slowly(page: Page) -> None:
    """Wish for what takes long enough to be interrupted: each picture by itself, in fp32."""
    page.get_by_role("button", name=label("wish.title")).first.click()
    for name, option in (("wish.dtype", "fp32"), ("wish.batch", "1")):
        page.get_by_label(label(name), exact=True).first.click()
        page.get_by_role("option", name=option, exact=True).first.click()
    expect(page.locator("#detect-plan")).to_contain_text("in fp32", timeout=PATIENCE)


def detecting(page: Page) -> None:
    """Begin, and wait until a picture is done."""
    page.click("#detect-run")
    expect(page.locator("#detect-status")).to_contain_text(re.compile(rf"[1-9]\d* of {MANY}"), timeout=PATIENCE)


def replicas(server: Served) -> list[psutil.Process]:
    found = [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(p.info["cmdline"] or ())]
    return [p for p in found if p.environ().get("ANYHOST_CACHE") == str(server.cache)]


def test_a_replica_detects_and_the_card_says_for_which_machine_it_was_planned(server: Served, page: Page):
    titles = "|".join(re.escape(load_host(name).title) for name in HOSTS)
    expect(page.locator("#detect-plan")).to_contain_text(re.compile(titles), timeout=PATIENCE)
    give(page, ROOT / "assets/examples/coins.png")
    page.click("#detect-run")
    expect(page.locator("#detect-image img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-counts")).to_contain_text(re.compile("24"), timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_visible(timeout=PATIENCE)
    assert len(replicas(server)) == 2


def test_stop_reaches_the_replica(page: Page, tmp_path: Path):
    slowly(page)
    give(page, *many(tmp_path))
    detecting(page)
    page.click("#detect-stop")
    expect(page.locator("#detect-status")).to_contain_text("Nothing is running any more", timeout=PATIENCE)
    expect(page.locator("#detect-run")).to_be_visible(timeout=PATIENCE)


def test_a_request_whose_replica_is_killed_is_done_by_the_other_and_says_so(server: Served, page: Page, tmp_path: Path):
    slowly(page)
    give(page, *many(tmp_path))
    before = {p.pid: sum(p.cpu_times()[:2]) for p in replicas(server)}
    assert len(before) == 2
    detecting(page)
    worked = {p.pid: sum(p.cpu_times()[:2]) - before[p.pid] for p in replicas(server)}
    os.kill(max(worked, key=lambda pid: worked[pid]), signal.SIGKILL)
    expect(page.locator("#detect-image img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#detect-strip .thumbnail-item")).to_have_count(MANY, timeout=PATIENCE)
    expect(page.locator("#detect-figures")).to_contain_text("A machine of the cluster went away", timeout=PATIENCE)
