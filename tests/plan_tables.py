"""Plans of every adapter on every named host as readable text, so that a rule's effect shows as a diff.

Write them anew with ``python -m tests.plan_tables``.
"""

from pathlib import Path

from adapters import ADAPTERS
from kit.texts.report import plan_text
from loader.host import host_names, load_host
from loader.plan import plan
from loader.spec import AdapterSpec

FOLDER = Path(__file__).with_name("plans")


def table(spec: AdapterSpec) -> str:
    return "\n\n".join(plan_text(plan(spec, load_host(name))) for name in host_names()) + "\n"


if __name__ == "__main__":
    for spec in ADAPTERS:
        (FOLDER / f"{spec.name}.txt").write_text(table(spec), encoding="utf-8")
