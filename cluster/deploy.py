"""Puts replicas on a Ray cluster: one already running (``RAY_ADDRESS``), or one of this machine alone."""

import logging
import os
from collections.abc import Callable
from typing import Any

import psutil
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.board import BEAT_SECONDS, NAME, NAMESPACE, Board
from cluster.engine import ClusterEngine
from cluster.gate import AT_A_REPLICA
from cluster.replica import Replica
from cluster.scale import Scale
from loader.allocator import OWN, variables_for
from loader.folders import Folders

APPLICATION = "anyhost"
# Requests come through the gate; the rest of these are questions for plans, which must not wait behind them.
AT_ONCE = 16


class Cluster:
    """A deployment and the engine in front of it; a context manager that takes down what it put up.

    Args:
        scale: asked for the replicas to put up, where there are none yet.
        address: of a Ray cluster that is up ("auto" for one on this machine); None starts one in this process. Replicas
            that another page or folder run has there are shared and stay.
    """

    def __init__(self, scale: Callable[[], Scale], *, address: str | None = None) -> None:
        self._own = address is None
        # Its words on a dead replica fill pages; ours are one line, in the trace of the request it had.
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        if address is not None:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        found = _deployed() if address is not None else None
        self.shared = found is not None
        handle, self.board = found or self._deploy(scale())
        self.engine = ClusterEngine(handle, self.board, Folders.from_environ(os.environ))

    def _deploy(self, scale: Scale) -> tuple[DeploymentHandle, Any]:
        self._scale = scale
        if self._own:
            self._start()
        board = ray.remote(Board).options(name=NAME, namespace=NAMESPACE, num_cpus=0, get_if_exists=True)
        standing_board = board.remote(scale.as_hosts)
        handle = serve.run(
            self._application(), name=APPLICATION, route_prefix=None, logging_config={"log_level": "WARNING"}
        )
        return handle, standing_board

    def _start(self) -> None:
        ray.init(
            num_cpus=self._scale.most * self._scale.cores + 1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=256 * 2**20,
            namespace=NAMESPACE,
        )

    def _application(self) -> Any:
        scale = self._scale
        settings: dict[str, Any] = {
            "ray_actor_options": {"num_cpus": scale.cores, "num_gpus": scale.gpus, **_environment(scale)},
            "max_ongoing_requests": AT_ONCE,
            "health_check_period_s": BEAT_SECONDS,
        }
        if scale.most > scale.least:
            settings["autoscaling_config"] = {
                "min_replicas": scale.least,
                "max_replicas": scale.most,
                # Less than the gate lets through: where requests wait there, another replica is wanted.
                "target_ongoing_requests": 0.75 * AT_A_REPLICA,
            }
        else:
            settings["num_replicas"] = scale.least
        return serve.deployment(**settings)(Replica).bind(scale.cores)

    def close(self) -> None:
        """Take the deployment down if it is this one's; a Ray cluster that was there before stays."""
        if not self.shared:
            serve.delete(APPLICATION)
            ray.kill(self.board)
        if self._own:
            serve.shutdown()
        ray.shutdown()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment(scale: Scale) -> dict[str, Any]:
    """What a replica's process is started with where the CPU computes. Nodes are taken to be like this machine."""
    if scale.gpus or any(os.environ.get(name) for name in OWN):
        return {}
    return {"runtime_env": {"env_vars": variables_for(psutil.virtual_memory().total)}}


def _deployed() -> tuple[DeploymentHandle, Any] | None:
    """The replicas that somebody has on this cluster, and their board; None where there are none to use."""
    found = serve.status().applications.get(APPLICATION)
    if found is None or found.status != "RUNNING":
        return None
    try:
        board = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:  # whoever put them up has died: they are put up anew
        return None
    return serve.get_app_handle(APPLICATION), board
