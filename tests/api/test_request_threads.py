"""FastAPI runs plain functions in threads, each of which costs more than a check of a header."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.api.dependencies import known_query
from app.main import _COMPAT, _NATIVE


def _calls(dependant: Dependant) -> Iterator[object]:
    for each in dependant.dependencies:
        yield each.call
        yield from _calls(each)


def test_no_dependency_of_a_route_needs_a_thread() -> None:
    routes = [route for part in (*_NATIVE, *_COMPAT) for route in part.router.routes if isinstance(route, APIRoute)]
    calls = {call for route in routes for call in _calls(route.dependant)} | {known_query}
    assert len(calls) > 5
    assert [call for call in calls if not inspect.iscoroutinefunction(call)] == []
