"""Conditions and queries over the rows of generations.

`now` is the time of leases: see `store`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Select, func, literal, or_, select, true, tuple_

from app.domain import Status
from app.stores import codec
from app.stores.protocols import ListQuery, PageMark
from app.stores.schema import batches, generations, served_models

OPEN = [status.value for status in Status if not status.is_final]
FINAL = [status.value for status in Status if status.is_final]

Time: TypeAlias = ColumnElement[float] | float


def oldest_claimable(
    now: Time, model: str, scorer: str | None, max_candidates: int | None, lease_s: float, weights: str | None = None
) -> Select[tuple[Any, Any]]:
    """Id and candidates of the oldest open generation that is free and of no batch.

    `scorer` and `weights` None are any.
    """
    table = generations.c
    free = is_free(now, lease_s)
    fits = table.candidates <= max_candidates if max_candidates is not None else true()
    return (
        select(table.id, table.candidates)
        .where(
            table.status.in_(OPEN),
            table.batch.is_(None),
            *_for_models(model, scorer, weights, now, lease_s),
            free,
            fits,
        )
        .order_by(table.created, table.id)
        .limit(1)
    )


def claimable_models(now: Time, lease_s: float) -> Select[tuple[Any]]:
    """Models of open generations that are free, in batches or not."""
    table = generations.c
    return select(table.model).where(table.status.in_(OPEN), is_free(now, lease_s)).distinct()


def first_entry(
    batch_id: str, now: Time, model: str, scorer: str | None, room: int, lease_s: float, weights: str | None = None
) -> Select[tuple[Any, Any]]:
    """Id and candidates of a batch's first claimable entry of at most `room`."""
    table = generations.c
    mine = table.batch == batch_id, table.status.in_(OPEN), *_for_models(model, scorer, weights, now, lease_s)
    query = select(table.id, table.candidates).where(*mine, is_free(now, lease_s), table.candidates <= room)
    return query.order_by(table.batch_index).limit(1)


def _for_models(
    model: str, scorer: str | None, weights: str | None, now: Time, lease_s: float
) -> list[ColumnElement[bool]]:
    conditions = [generations.c.model == model]
    if scorer is not None:
        conditions.append(generations.c.scorer == scorer)
    if weights is not None:
        conditions.append(_may_run(weights, now, lease_s))
    return conditions


def _may_run(weights: str, now: Time, span_s: float) -> ColumnElement[bool]:
    """Made for these weights, or for others that no replica serves.

    A replica serves what it has published within `span_s`.
    """
    made, served = generations.c, served_models.c
    others = select(served.replica).where(served.model == made.model, served.weights == made.weights)
    others = others.where(served.seen > now - span_s, served.seen < now + span_s)
    return or_(made.weights.in_(["", weights]), ~others.correlate(generations).exists())


def is_free(now: Time, lease_s: float) -> ColumnElement[bool]:
    """Unclaimed or expired; `lease_s` applies to claims stored without a lease."""
    table = generations.c
    length = func.coalesce(table.lease_s, lease_s)
    return or_(table.lease_until.is_(None), table.lease_until < now, table.lease_until > now + 2 * length)


def unattended(now: Time, span_s: float) -> ColumnElement[bool]:
    """Last followed too long ago, or dated by the clock of an earlier boot."""
    return or_(generations.c.attended < now - span_s, generations.c.attended > now + span_s)


def page(query: ListQuery, after: PageMark | None, limit: int) -> Select[Any]:
    """The rows of one page, newest first, by the indexes on the owner."""
    table = generations.c
    conditions = [table.owner == query.owner]
    if query.statuses:
        conditions.append(table.status.in_([status.value for status in query.statuses]))
    if query.since is not None:
        conditions.append(table.created >= query.since)
    if query.before is not None:
        conditions.append(table.created < query.before)
    if query.batch is not None:
        conditions.append(table.batch == query.batch)
    if query.jobs:
        conditions.append(table.job.is_not(None))
    if after is not None:
        conditions.append(tuple_(table.created, table.id) < tuple_(literal(after.created), literal(after.id)))
    return select(*codec.ROW).where(*conditions).order_by(table.created.desc(), table.id.desc()).limit(limit)


def not_in_active_batch(since: float) -> ColumnElement[bool]:
    """Not an entry of a batch of which another entry was claimed after `since`."""
    active = select(batches.c.id).where(or_(batches.c.served >= since, batches.c.created >= since))
    return or_(generations.c.batch.is_(None), generations.c.batch.not_in(active))


def older_than(created_before: float, which: ColumnElement[bool], limit: int) -> Select[tuple[Any]]:
    """Ids of generations created before then, oldest first."""
    table = generations.c
    return select(table.id).where(which, table.created < created_before).order_by(table.created).limit(limit)
