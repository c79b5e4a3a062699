"""The Ray Serve application of a model: each replica is a worker.

Only processes of Ray import it: `import_path: app.workers.deployment:build` in a Serve config.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from app import logs
from app.engine.cluster.replicas.body import ReplicaBody
from app.engine.cluster.replicas.router import NamedReplicaRouter
from app.engine.cluster.replicas.wire import RequestKind
from app.engine.config import EngineConfig
from app.engine.warmup import Progress
from app.model_loading import load_served
from app.workers.arguments import WorkerArguments

LIMIT = 1024
"""Requests at once to a worker. Fronts limit the rows that they send."""

PER_WORKER = 4.0
"""Segments in flight for each worker that Serve aims at.

A front sends up to eight before it lets more wait.
"""

UPSCALE_S = 1.0
"""Seconds of load before Serve starts a further worker."""

END_S = 300.0
"""Maximum seconds in which a worker that stops ends the segments that it runs."""


class ModelReplica:
    """A worker of one model."""

    async def __init__(self, given: Mapping[str, Any]) -> None:  # type: ignore[misc]
        """Load the models. Raises ModelError."""
        logs.configure("info", "json")
        arguments = WorkerArguments(**given)
        progress = Progress()
        self._body = ReplicaBody(
            serve.get_replica_context().replica_id.unique_id,
            partial(load_served, arguments.settings, progress, arguments.called),
            EngineConfig(),
            _end,
            progress,
        )
        await self._body.start()

    async def answer(self, to: str, kind: RequestKind, data: bytes) -> AsyncIterator[bytes]:
        """See `ReplicaBody.answers`."""
        async for each in self._body.answers(to, kind, data):
            yield each

    def check_health(self) -> None:
        """Raises RuntimeError if the device is dead."""
        if self._body.dead:
            raise RuntimeError("the device is dead")


def _end(reason: BaseException) -> None:
    """End this process: only a new one can use the device again, and Serve starts it."""
    print(f"the device died: {reason}", flush=True)  # noqa: T201
    os._exit(1)


def build(given: dict[str, Any]) -> serve.Application:
    """The application for these arguments. Raises ValueError."""
    arguments = WorkerArguments(**given)
    deployment = serve.deployment(
        ModelReplica,
        name="worker",
        max_ongoing_requests=LIMIT,
        graceful_shutdown_timeout_s=END_S,
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_workers,
            max_replicas=arguments.max_workers,
            target_ongoing_requests=PER_WORKER,
            upscale_delay_s=UPSCALE_S,
            downscale_delay_s=arguments.idle_s,
        ),
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        request_router_config=RequestRouterConfig(request_router_class=NamedReplicaRouter),
    )
    return deployment.bind(arguments.model_dump(mode="json"))
