"""How Ray Serve routes: to the replica that the request names.

Only processes of Ray import it. Serve sends the class to them as a copy, so its methods import what they share with
this process.
"""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class NamedReplicaRouter(RequestRouter):  # type: ignore[misc]
    """Routes to the replica whose id is the request's first argument.

    It routes to any if the id is empty, or its replica gone. A replica that was not meant says so, and the front sends
    the work elsewhere.
    """

    @property
    def supports_rejection_protocol(self) -> bool:
        """False: fronts limit what they send; rejection costs a message a request."""
        return False

    @property
    def max_num_routing_tasks(self) -> int:
        """See `RequestRouter`. A replica that hangs must not hold up requests for others."""
        return 1024 if self.curr_replicas else 0

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See `RequestRouter`."""
        from app.engine.cluster.replicas import presence

        wanted = pending_request.args[0] if pending_request is not None and pending_request.args else ""
        return [[each] for each in presence.choose(candidate_replicas, wanted)]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See `RequestRouter`; also reports to the watchers of this process."""
        from app.engine.cluster.replicas import presence

        super().update_replicas(replicas)
        presence.publish(replicas)
