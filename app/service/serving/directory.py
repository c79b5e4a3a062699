"""The services of each model: of a requested one, or of a generation's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, Literal, TypeAlias, TypeVar

from app.domain import Generation
from app.engine.protocols import PanelScorer
from app.engine.registry import ElsewhereEngine, ModelCard, ModelRegistry, ModelStateName
from app.errors import FrontrunnerError, ModelAway, ModelLoadFailed, NotFound
from app.service.ids import base_name
from app.service.serving.roster import HeldElsewhere, Roster
from models.protocols import ScorerInfo

Bundle = TypeVar("Bundle")

Needs: TypeAlias = Literal["record", "scorer", "generator"]
"""What a request needs of the model that made a generation."""

MAX_NAMES = 32
"""Maximum names that an error lists."""


class ModelDirectory(Generic[Bundle]):
    """Bundles of services by model id. `find` reads a generation of any owner."""

    def __init__(
        self,
        registry: ModelRegistry,
        find: Callable[[str], Awaitable[Generation | None]],
        roster: Roster | None = None,
    ) -> None:
        self._registry = registry
        self._find = find
        self._roster = roster
        self._bundles: dict[str, Bundle] = {}
        self._elsewhere: dict[str, tuple[ElsewhereEngine, Bundle]] = {}

    def fill(self, bundles: Mapping[str, Bundle], build: Callable[[ElsewhereEngine], Bundle]) -> None:
        """Enter the services of every model, and what makes those of models elsewhere.

        Call it before the first request.
        """
        self._bundles.update(bundles)
        self._build = build

    @property
    def default(self) -> Bundle:
        """The services of requests that name no model."""
        return self._bundles[self._registry.default]

    @property
    def bundles(self) -> Mapping[str, Bundle]:
        """The services by model id, the default first; a single model's id is empty."""
        return self._bundles

    @property
    def others(self) -> list[Bundle]:
        """The services of all models but the default one."""
        return [bundle for name, bundle in self._bundles.items() if name != self._registry.default]

    @property
    def every(self) -> list[Bundle]:
        """The services of all models, with those that queue for other replicas."""
        return [*self._bundles.values(), *(bundle for _, bundle in self._elsewhere.values())]

    @property
    def several(self) -> bool:
        """Whether requests choose between models."""
        return self._registry.several

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all models, the default first; empty for a single one."""
        return self._registry.ids

    def states_by_replica(self, name: str) -> Mapping[str, ModelStateName]:
        """The state of a model on every live replica that serves it, this one first."""
        if self._roster is None:
            return {}
        managed, others = self._registry.managed(name), self._roster.elsewhere.get(name)
        own = {self._roster.replica: managed.state} if managed is not None else {}
        return {**own, **(others.states if others is not None else {})}

    @property
    def registry(self) -> ModelRegistry:
        """The engines."""
        return self._registry

    def scorers(self) -> Iterator[tuple[str, str]]:
        """The id of each model whose facts are known, and that of its main scorer."""
        for name in self.ids:
            if (scorer := self._scorer(name)) is not None:
                yield name, scorer[0]

    def embedders(self) -> Iterator[tuple[str, ScorerInfo]]:
        """The scorers with embeddings that may rank, each with the id of its model.

        Main scorers first. Of models whose facts are known; a single model's id is empty.
        """
        for role in ("main", "member"):
            for name, each in self.panels():
                if each.role == role and isinstance(each.info, ScorerInfo):
                    yield name, each.info

    def panels(self) -> Iterator[tuple[str, PanelScorer]]:
        """All scorers, each with the id of its model, as `embedders`."""
        for name in self.ids or (self._registry.default,):
            for each in self._panel(name):
                yield name, each

    async def named(self, model: str | None, since: float | None = None) -> Bundle:
        """The services of a model; None is the default one.

        A single model's services check the name themselves. Waits until the facts of the model are known. A name is
        refused only after a look at other replicas that began at `since` or later; see `Roster.look`. A model that
        cannot be loaded here waits for a replica that has it. Raises NotFound with a pointer, ModelLoadFailed, Draining
        and StoreUnavailable.
        """
        if not self.several:
            return self.default
        name = self._registry.default if model is None else model
        managed = self._registry.managed(name)
        if managed is None:
            return await self._found_elsewhere(name, since)
        try:
            await managed.known()
        except ModelLoadFailed:
            away = await self._held_by_others(name, since)
            if away is None:
                raise
            return away
        return self._bundles[name]

    def is_known(self, model: str | None) -> bool:
        """Whether `named` waits for no load: facts are known, or it raises an error."""
        managed = self._registry.managed(self._registry.default if model is None else model)
        return managed is None or managed.state == "failed" or managed.facts_card() is not None

    async def look_elsewhere(self) -> None:
        """Look afresh at what other replicas serve. Raises StoreUnavailable."""
        if self._roster is not None:
            await self._roster.look()

    @property
    def announced(self) -> bool:
        """Whether other replicas can find the models of this one."""
        return self._roster is None or self._roster.announced

    async def _held_by_others(self, name: str, since: float | None) -> Bundle | None:
        """The services that queue for other replicas, if one has loaded the model."""
        held = await self._roster.find(name, since) if self._roster is not None else None
        return self._away(name, held.card) if held is not None and held.card is not None else None

    async def _found_elsewhere(self, name: str, since: float | None) -> Bundle:
        """The services that queue for other replicas.

        Raises NotFound, ModelAway and StoreUnavailable.
        """
        held = await self._roster.find(name, since) if self._roster is not None else None
        if held is None:
            names = ", ".join([*self.ids, *self.elsewhere][:MAX_NAMES])
            raise NotFound(f"model {name[:100]!r} is not served: use one of {names}", pointer="#/model")
        if held.card is None:
            raise ModelAway(
                f"model {name!r} was never loaded on its replica: ask that replica, then retry here", retry_after_s=5
            )
        return self._away(name, held.card)

    @property
    def elsewhere(self) -> Mapping[str, HeldElsewhere]:
        """Models that only other live replicas serve, as of the last look."""
        held = self._roster.elsewhere if self._roster is not None else {}
        return {name: one for name, one in held.items() if name not in self._bundles}

    def away(self, name: str) -> Bundle | None:
        """The services that queue for a model of `elsewhere`, if its facts are known."""
        held = self.elsewhere.get(name)
        return self._away(name, held.card) if held is not None and held.card is not None else None

    def _away(self, name: str, card: ModelCard) -> Bundle:
        if name not in self._elsewhere:
            engine = ElsewhereEngine(card)
            self._elsewhere[name] = engine, self._build(engine)
        engine, bundle = self._elsewhere[name]
        engine.card = card
        return bundle

    async def of_generation(self, generation_id: str, needs: Needs) -> Bundle:
        """The services of the model that made a generation, with the same weights.

        If those are not served, of another one. For a ranking the same scorer is enough. Unless only the record is
        needed, models load whose weights are not known yet. Raises StoreUnavailable.
        """
        if not self.several:
            return self.default
        generation = await self._find(generation_id)
        if generation is None:
            return self.default
        names = [name for name in self.ids if base_name(name) == base_name(generation.model)]
        names.sort(key=lambda name: name != generation.model)
        for name in names:
            if await self._revision(name, load=needs != "record") == generation.model_revision:
                return self._bundles[name]
        if needs == "scorer":
            made = generation.scorer, generation.scorer_revision
            names = [name for name in (*names, *self.ids) if self._scorer(name) == made] or names
        away = None
        if needs == "generator" or not names:
            if needs != "record" and self._roster is not None:
                await self._roster.find(generation.model)
            away = self.away(generation.model)
        return away or (self._bundles[names[0]] if names else self.default)

    async def _revision(self, name: str, *, load: bool) -> str | None:
        managed = self._registry.managed(name)
        assert managed is not None
        try:
            if load:
                await managed.known()
            return managed.generator.revision
        except FrontrunnerError:  # not loaded, or it cannot be
            return None

    def _panel(self, name: str) -> tuple[PanelScorer, ...]:
        try:
            return self._registry.engine(name).panel
        except FrontrunnerError:
            return ()

    def _scorer(self, name: str) -> tuple[str, str] | None:
        try:
            scorer = self._registry.engine(name).scorer
        except FrontrunnerError:
            return None
        return scorer.id, scorer.revision
