"""The applications of a cluster: deployed, listed, deleted.

Imports Ray where it is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.model_loading import application_name

PREFIX = application_name("")
"""What the names of our applications begin with."""

ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
"""Variables of processes that speak to a cluster; the operator's take precedence."""


class ClusterProblem(Exception):
    """Why a cluster cannot be used, for the operator."""


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """An application and its workers by state, in Serve's words."""

    name: str
    state: str
    workers: Mapping[str, int]
    message: str


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray Serve of the cluster at `address`. Raises ClusterProblem."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ClusterProblem("Ray is not installed: install `frontrunner[cluster]`") from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterProblem(f"the cluster at {address} cannot be reached: {first}") from error
    try:
        yield serve
    finally:
        ray.shutdown()


def deploy(serve: Any, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Start or update the application of each model, by id; wait until they run.

    Raises ClusterProblem.
    """
    from app.workers.deployment import build

    serve.start(proxy_location="Disabled")
    for model, arguments in models.items():
        try:
            serve.run(build(dict(arguments)), name=application_name(model), route_prefix=None)
        except RuntimeError as error:
            raise ClusterProblem(f"the workers of model {model!r} do not start: {error}") from error


def applications(serve: Any) -> list[ApplicationState]:
    """The applications of our models, by name."""
    return [
        ApplicationState(name, str(each.status.value), _workers(each.deployments), each.message)
        for name, each in sorted(serve.status().applications.items())
        if name.startswith(PREFIX)
    ]


def _workers(deployments: Mapping[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for deployment in deployments.values():
        for state, number in deployment.replica_states.items():
            counts[str(getattr(state, "value", state))] = counts.get(str(getattr(state, "value", state)), 0) + number
    return counts


def delete(serve: Any) -> list[str]:
    """Stop the applications of our models; return their names."""
    names = [each.name for each in applications(serve)]
    for name in names:
        serve.delete(name)
    return names
