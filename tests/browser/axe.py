"""What axe-core (4.12, of the package axe-playwright-python) finds on a page, put so that a failed test can be read."""

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

COUNTED = frozenset({"serious", "critical"})
# What cannot be mended from here, by exact selector, each with its reason in docs/accessibility.md. Never a whole rule.
EXCLUDED: tuple[str, ...] = ()

# Colours fade from one to the next; halfway they have the contrast of neither.
SETTLED = (
    "document.getAnimations().every(a => a.playState !== 'running' || a.effect.getTiming().iterations === Infinity)"
)


def findings(page: Page) -> list[str]:
    """Serious and critical findings in the page as it stands, one line each."""
    page.mouse.move(0, 0)
    page.wait_for_function(SETTLED)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate(
        "(excluded) => axe.run(excluded.length ? {exclude: excluded} : document, {resultTypes: ['violations']})",
        [[selector] for selector in EXCLUDED],
    )
    return [
        f"{rule['impact']} {rule['id']} {node['target']}: {node['html'][:160]}: {node.get('failureSummary', '')[:200]}"
        for rule in found["violations"]
        if rule["impact"] in COUNTED
        for node in rule["nodes"]
    ]
