"""Puts replicas on a Ray cluster: one already running (``RAY_ADDRESS``), or one of this machine alone."""

import os
from typing import Any

import ray
from ray import serve

from cluster.board import NAME, NAMESPACE, Board
from cluster.engine import ClusterEngine
from cluster.replica import Replica
from cluster.scale import Scale
from loader.folders import Folders

APPLICATION = "anyhost"
WAITING_AT_A_REPLICA = 4


class Cluster:
    """A deployment and the engine in front of it; a context manager that takes it down again."""

    def __init__(self, scale: Scale, *, address: str | None = None) -> None:
        self._scale, self._own = scale, address is None
        self._start(address)
        board = ray.remote(Board).options(name=NAME, namespace=NAMESPACE, num_cpus=0, get_if_exists=True)
        self.board: Any = board.remote(scale.as_hosts)
        handle = serve.run(
            self._application(), name=APPLICATION, route_prefix=None, logging_config={"log_level": "WARNING"}
        )
        self.engine = ClusterEngine(handle, self.board, Folders.from_environ(os.environ))

    def _start(self, address: str | None) -> None:
        if ray.is_initialized():
            return
        if address is not None:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
            return
        ray.init(
            num_cpus=self._scale.most * self._scale.cores + 1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=256 * 2**20,
            namespace=NAMESPACE,
        )

    def _application(self) -> Any:
        scale = self._scale
        settings: dict[str, Any] = {
            "ray_actor_options": {"num_cpus": scale.cores, "num_gpus": scale.gpus},
            # One request computes; the others wait here rather than at a replica that may be slower.
            "max_ongoing_requests": WAITING_AT_A_REPLICA,
            "health_check_period_s": 5,
        }
        if scale.most > scale.least:
            settings["autoscaling_config"] = {
                "min_replicas": scale.least,
                "max_replicas": scale.most,
                "target_ongoing_requests": 2,
            }
        else:
            settings["num_replicas"] = scale.least
        return serve.deployment(**settings)(Replica).bind(scale.cores)

    def close(self) -> None:
        """Take the deployment down; a cluster that was there before stays."""
        serve.delete(APPLICATION)
        ray.kill(self.board)
        if self._own:
            serve.shutdown()
            ray.shutdown()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
