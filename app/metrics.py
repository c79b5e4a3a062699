"""Prometheus metrics: owns every metric's name and description.

HTTP metrics are counted per response; engine metrics are read on scrape. Each app has its own registry, so that one
process can hold several apps.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.engine.registry import ModelRegistry
from app.service import Ensembles, GenerationService, WebhookDispatcher
from app.stores.instrumentation import StoreInstruments

LATENCY_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

GAUGES = {
    "frontrunner_ready": "1 when the models are loaded and the engine is alive",
    "frontrunner_queued_candidates": "candidates of generations that have not started",
    "frontrunner_held_candidates": "candidates accepted and not yet ended; limited by the capacity",
    "frontrunner_live_rows": "candidates being denoised",
    "frontrunner_capacity_candidates": "maximum held candidates; further ones are rejected",
    "frontrunner_seconds_per_candidate": "measured device seconds per candidate",
    "frontrunner_workers": "devices that share each generation; all models together",
    "frontrunner_workers_ready": "those of them that are loaded and alive",
    "frontrunner_webhooks_waiting": "undelivered webhooks of all replicas",
    "frontrunner_notifications": "1 when PostgreSQL notifies this replica of the queue and of ends, 0 when it polls",
}
COUNTERS = {
    "frontrunner_rows_stepped_total": "denoising steps, counted per candidate",
    "frontrunner_denoiser_calls_total": "denoiser calls, each with one or more rows",
    "frontrunner_stage_seconds_total": "device seconds by stage",
    "frontrunner_generations_total": "ended generations by outcome",
    "frontrunner_pruning_shadows_total": "generations run unpruned to measure the loss by pruning",
    "frontrunner_pruning_regret_total": "sum over those of the share of the best-of-N gain that pruning would lose",
    "frontrunner_referee_verdicts_total": "winners by the referee's verdict: better, equal or worse than the median",
    "frontrunner_webhooks_total": "webhook delivery attempts by outcome",
    "frontrunner_remote_calls_total": "ended calls to remotes: answered, cancelled, failed, or why no image was made",
    "frontrunner_remote_seconds_total": "seconds of those calls, by the same outcomes",
    "frontrunner_store_calls_total": "database and image store operations by name",
    "frontrunner_store_seconds_total": "seconds of store operations by name",
    "frontrunner_store_failures_total": "store operations that failed because the store was unavailable, by name",
}
MODELS = {
    "frontrunner_model_loaded": "1 when a model of FRONTRUNNER_MODELS is loaded, by model",
    "frontrunner_model_weight_bytes": "measured size of the weights of a loaded model, by model",
    "frontrunner_model_held_candidates": "candidates accepted and not yet ended, by model",
    "frontrunner_model_loads_total": "models that were loaded, failed to load or were unloaded, by model and outcome",
}
"""Only with several models; the other metrics are sums over them."""

HTTP = {
    "frontrunner_http_requests_total": "responses by method, route and status",
    "frontrunner_http_seconds": "seconds from request to the end of the response, by method and route",
}
NAMES = (*GAUGES, *COUNTERS, *MODELS, *HTTP)
"""The names of all metrics as scraped."""


Lane: TypeAlias = tuple[GenerationService, Ensembles]
"""The counters of one model."""


class Metrics:
    """The metrics of one app.

    `lanes` are those of its models. `notified` is whether the database sends notifications.
    """

    def __init__(
        self,
        models: ModelRegistry,
        lanes: Sequence[Lane],
        dispatcher: WebhookDispatcher,
        stores: Sequence[StoreInstruments],
        notified: Callable[[], bool],
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_ServiceCollector(models, lanes, dispatcher, stores, notified))
        (requests, requests_text), (seconds, seconds_text) = HTTP.items()
        self._requests = Counter(requests, requests_text, ("method", "route", "status"), registry=self._registry)
        self._seconds = Histogram(
            seconds, seconds_text, ("method", "route"), buckets=LATENCY_S, registry=self._registry
        )

    def observe_response(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a response. `route` is a template, never a path, to limit label values."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self._registry)


class _ServiceCollector(Collector):
    def __init__(
        self,
        models: ModelRegistry,
        lanes: Sequence[Lane],
        dispatcher: WebhookDispatcher,
        stores: Sequence[StoreInstruments],
        notified: Callable[[], bool],
    ) -> None:
        self._models = models
        self._lanes = lanes
        self._dispatcher = dispatcher
        self._stores = stores
        self._notified = notified

    def collect(self) -> Iterator[Metric]:
        stats = self._models.stats()
        gauges = (
            stats.ready,
            stats.queued,
            stats.held,
            stats.running,
            stats.capacity,
            stats.seconds_per_candidate,
            stats.workers,
            stats.workers_ready,
            self._dispatcher.pending,
            self._notified(),
        )
        for (name, text), value in zip(GAUGES.items(), gauges, strict=True):
            yield GaugeMetricFamily(name, text, value=float(value))
        rows, calls, stages, generations, shadows, regret, verdicts, webhooks, remote, took, *stores = COUNTERS.items()
        yield CounterMetricFamily(*rows, value=stats.rows_stepped)
        yield CounterMetricFamily(*calls, value=stats.denoiser_calls)
        yield _labelled(stages, "stage", stats.stage_seconds)
        yield _labelled(generations, "outcome", _sums(service.outcomes() for service, _ in self._lanes))
        regrets = zip(*(service.pruning_regrets() for service, _ in self._lanes), strict=True)
        for named, values in zip((shadows, regret), regrets, strict=True):
            yield CounterMetricFamily(*named, value=sum(values))
        yield _labelled(verdicts, "verdict", _sums(ensembles.referee.verdicts for _, ensembles in self._lanes))
        yield _labelled(webhooks, "outcome", self._dispatcher.outcomes())
        yield _labelled(remote, "outcome", stats.remote_calls.counts)
        yield _labelled(took, "outcome", stats.remote_calls.seconds)
        for family, kind in zip(stores, ("calls", "seconds", "failures"), strict=True):
            counted = {k: v for instruments in self._stores for k, v in getattr(instruments, kind).items()}
            yield _labelled(family, "operation", counted)
        if self._models.several:
            yield from self._by_model()

    def _by_model(self) -> Iterator[Metric]:
        loaded, size, held, loads = MODELS.items()
        states = self._models.states()
        families = [GaugeMetricFamily(*named, labels=["model"]) for named in (loaded, size, held)]
        for state in states:
            values = state.state == "loaded", state.stats.weight_bytes, state.stats.held
            for family, value in zip(families, values, strict=True):
                family.add_metric([state.id], float(value))
        yield from families
        counted = CounterMetricFamily(*loads, labels=["model", "outcome"])
        for state in states:
            for outcome, count in state.loads.items():
                counted.add_metric([state.id, outcome], count)
        yield counted


def _sums(counts: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    total = collections.Counter[str]()
    for each in counts:
        total.update(each)
    return total


def _labelled(named: tuple[str, str], label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(*named, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
