"""The page of a ZeroGPU Space on the fake accelerator; the first argument is where it writes what was asked for.

Forks, as there: the stand-in for ``spaces`` has to be on the path. The other models' tabs show their plans only.
"""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import spaces

from app import main
from tests import fake_accelerator
from tests.zerogpu_rehearsal import rehearsed


def serve(told: Path, words: list[str]) -> int:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import commands.serve
    import page.build

    @contextmanager
    def on_zerogpu(**_: Any) -> Any:
        engine = rehearsed(Path(os.environ["ANYHOST_CACHE"]))
        placing = fake_accelerator.MEMORY.computed.total()
        yield engine
        computed = fake_accelerator.MEMORY.computed.total() - placing
        told.write_text(json.dumps({"asked": spaces.asked, "computed_in_main": computed}))

    commands.serve.engine_for = on_zerogpu
    page.build.TABS = {"damo_yolo": page.build.TABS["damo_yolo"]}
    return main(["serve", *words])


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    sys.exit(serve(Path(first), rest))
