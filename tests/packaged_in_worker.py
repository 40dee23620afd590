"""A packaged network called in a forked worker, as JSON: ``python -m tests.packaged_in_worker FOLDER``."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import spaces
import torch

from loader.packages import attach, note_of
from loader.place import arch_of
from tests.test_packages import X, net


def main(folder: Path) -> dict[str, object]:
    asked: list[int] = []
    module, plain = net(), net()

    def arch() -> str:
        asked.append(os.getpid())
        return arch_of("cpu")

    stand_ins = attach(module, "Block", folder, arch)

    @spaces.GPU(duration=15)
    def work(x: torch.Tensor) -> Iterator[tuple[list[float], list[int], str]]:
        with torch.inference_mode():
            yield module(x).flatten().tolist(), [s.used for s in stand_ins], note_of(module)

    ((values, used, note),) = work(X)
    far = (torch.tensor(values) - plain(X).flatten()).abs().max().item()
    return {"far": far, "used": used, "note": note, "here": [s.used for s in stand_ins], "asked_here": len(asked)}


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1])), sys.stdout)
