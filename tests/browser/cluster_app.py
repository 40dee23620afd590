"""``app.py serve --ray`` with a replica for each of the hosts named first, on one core each.

The tabs of the other models show their plans only: building them takes longer than all the rest.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

from app import main
from cluster.deploy import Cluster
from cluster.scale import Scale


def serve(hosts: Sequence[str], words: Sequence[str]) -> int:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import commands.serve
    import page.build

    @contextmanager
    def rehearsed(*, replicas: str, cores: int | None) -> Any:
        assert (replicas, cores) == (str(len(hosts)), 1)
        scale = Scale(len(hosts), len(hosts), cores=1, as_hosts=tuple(hosts))
        with Cluster(lambda: scale) as cluster:
            yield cluster.engine

    commands.serve.engine_for = rehearsed
    page.build.TABS = {"damo_yolo": page.build.TABS["damo_yolo"]}
    return main(["serve", "--ray", "--replicas", str(len(hosts)), "--cores", "1", *words])


if __name__ == "__main__":
    first, second, *rest = sys.argv[1:]
    sys.exit(serve((first, second), rest))
