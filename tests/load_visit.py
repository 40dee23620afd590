"""The one visitor with a browser among the clients: detects and measures by turns, and presses Stop now and then."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import Error, Page, expect

from tests.browser.chromium import PATIENCE, chromium

STOP_EVERY = 5
CLOCK = re.compile(r"[\d./]+s")
BEGUN_MS = 3000  # a run that was over before it could be seen has been seen by its result


@dataclass
class Visit:
    """A page that is open, and what was seen on it.

    Attributes:
        shown: what each tab showed when nobody else was there.
        runs: begun; ``stopped`` of them by Stop.
        problems: what was not as it should be.
    """

    page: Page
    shown: dict[str, str] = field(default_factory=dict)
    runs: int = 0
    stopped: int = 0
    problems: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """Choose an example on both tabs, and see what they give."""
        for model, tab, example in (
            ("DAMO-YOLO", "detect", "#detect-examples button:has(img[alt='coins'])"),
            ("Metric3D", "depth", "#depth-examples button >> nth=0"),
        ):
            self.page.get_by_role("tab", name=model, exact=True).first.click()
            self.page.locator(example).click()
            expect(self.page.locator(f"#{tab}-pictures .gallery-item img")).to_have_count(1, timeout=PATIENCE)
            self.shown[tab] = self._run(tab)

    def go_on(self, while_: Callable[[], bool], seconds: float) -> None:
        """Run by turns until the time is over."""
        until = time.monotonic() + seconds
        while while_() and time.monotonic() < until:
            model, tab = (("DAMO-YOLO", "detect"), ("Metric3D", "depth"))[self.runs % 2]
            self.page.get_by_role("tab", name=model, exact=True).first.click()
            self.runs += 1
            try:
                shown = self._run(tab, stop=self.runs % STOP_EVERY == 0)
            except (AssertionError, Error) as error:
                self.problems.append(f"the browser, run {self.runs} on {model}: {str(error)[:300]}")
                return
            if shown and shown != self.shown[tab]:
                self.problems.append(f"the browser was shown {shown!r} instead of {self.shown[tab]!r}")

    def _run(self, tab: str, *, stop: bool = False) -> str:
        """What a run shows; "" if it was stopped."""
        self.page.click(f"#{tab}-run")
        try:
            self.page.locator(f"#{tab}-stop").wait_for(state="visible", timeout=BEGUN_MS)
        except Error:
            stop = False
        if stop:
            self.page.click(f"#{tab}-stop")
        expect(self.page.locator(f"#{tab}-run")).to_be_visible(timeout=PATIENCE)
        if stop:
            self.stopped += 1
            return ""
        answer = self.page.locator("#detect-counts" if tab == "detect" else "#depth-facts")
        expect(answer).to_be_visible(timeout=PATIENCE)
        # Gradio lays the seconds of a change that is on its way over it.
        return "\n".join(line for line in answer.inner_text().splitlines() if not CLOCK.fullmatch(line.strip()))


@contextmanager
def visiting(url: str) -> Iterator[Visit]:
    """A browser on the page, ready to run."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.set_default_timeout(PATIENCE)
        visit = Visit(page)
        page.on("pageerror", lambda error: visit.problems.append(f"the page's script: {error}"))
        page.goto(url, wait_until="domcontentloaded")
        expect(page.locator("#detect-plan")).to_contain_text("DAMO-YOLO", timeout=PATIENCE)
        visit.prepare()
        yield visit
        page.close()
