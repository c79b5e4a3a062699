"""Families of scorers: which names each family loads, and how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from models.errors import ModelNotFound, ModelUnsupported
from models.families.sources import (
    AESTHETIC,
    HPS,
    HUB_ID,
    LOCAL,
    VLM,
    Family,
    LoadContext,
    Source,
    family_of,
    is_any,
    named_errors,
)
from models.pack import pack_in, packs
from models.protocols import Embedder, Scorer, embeds
from models.protocols.scoring import LAYOUT
from models.synthetic.members import SCORER_KINDS

SCORER_ALIASES: Mapping[str, str] = {
    "pickscore": "yuvalkirstain/PickScore_v1",
    "hps": f"{HPS}xswu/HPSv2/HPS_v2.1_compressed.pt",
    "siglip2": "hf-hub:timm/ViT-SO400M-16-SigLIP2-384",
    "aesthetic": f"{AESTHETIC}trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth",
}
"""Short names of published scorers."""


def load_scorer(context: LoadContext, source: Source) -> Embedder | Scorer:
    """A scorer by its name, loaded once. Raises the errors of `models.errors`."""
    found = context.scorers.get(source.name)
    if found is None:
        found = context.scorers[source.name] = family_of(SCORERS, source).load(context, source)
    return found


def offered(context: LoadContext, main: Source, taken: Collection[str]) -> list[Embedder]:
    """The second scorer of the main scorer's pack, loaded when it is first used.

    None of a main scorer without one, or if its name is `taken`. Raises PackCorrupt if its configuration is unreadable.
    """
    second = main.pack.second if main.pack is not None else None
    if second is None or second.id in taken:
        return []
    from models.scorers import open_clip
    from models.scorers.deferred import DeferredScorer

    def load() -> Embedder:
        second.verify()
        loaded = load_scorer(context, source)
        assert embeds(loaded)
        return loaded

    source = Source(second.id if main.name == main.label else str(second.scorer), second)
    return [DeferredScorer(open_clip.read_pack_info(second, context.placement), load)]


def scorer_needs_torch(source: Source) -> bool:
    """Whether the scorer of this name runs on torch."""
    if source.prefix == LAYOUT:
        return scorer_needs_torch(_behind(source.place))
    return family_of(SCORERS, source).needs_torch


def _load_alias(context: LoadContext, source: Source) -> Embedder | Scorer:
    return load_scorer(context, Source(SCORER_ALIASES[source.name], called=source.name))


def _load_open_clip(context: LoadContext, source: Source) -> Embedder:
    """An open_clip model, or a hub id of transformers.

    It is one of transformers if its owner is no architecture of open_clip.
    """
    placement = context.placement
    from models.scorers import open_clip

    owner, _, rest = source.name.partition("/")
    if source.folder is None and rest and HUB_ID.fullmatch(source.name) and not open_clip.is_architecture(owner):
        return _load_transformers(context, source)
    name = f"{LOCAL}{source.name}" if source.folder else source.name
    with named_errors(context, "scorer", source):
        return open_clip.load_open_clip(name, source.label, placement)


def _load_transformers(context: LoadContext, source: Source) -> Embedder:
    placement = context.placement
    from models.scorers import transformers_clip

    with named_errors(context, "scorer", source):
        return transformers_clip.load_transformers(source.folder or source.name, source.label, placement)


def _load_hps(context: LoadContext, source: Source) -> Embedder:
    placement = context.placement
    from models.runtime import hub
    from models.scorers import checkpoints

    with named_errors(context, "scorer", source):
        return checkpoints.load_hps(hub.find_file(source.place), source.label, placement)


def _load_aesthetic(context: LoadContext, source: Source) -> Scorer:
    """A head on the embedder behind the @.

    Without one, on the embedder that heads of its width are trained on.
    """
    from models.runtime import hub
    from models.scorers import checkpoints

    named = source.name.partition("@")[2]
    with named_errors(context, "scorer", source):
        layers = checkpoints.read_head(hub.find_file(source.place))
        name = named or checkpoints.default_embedder(layers)
    embedder = _load_embedder(context, name)
    with named_errors(context, "scorer", source):
        return checkpoints.AestheticScorer(layers, embedder, id=source.label)


def _load_layout(context: LoadContext, source: Source) -> Scorer:
    from models.scorers.layout import LayoutScorer

    if not source.place:
        raise ModelNotFound(f"scorer {source.name!r} not found; name a scorer that embeds after it, as in {LAYOUT}fake")
    return LayoutScorer(_load_embedder(context, source.place), id=source.label)


def _load_embedder(context: LoadContext, name: str) -> Embedder:
    """The scorer that another one is built on. Raises the errors of `models.errors`."""
    source = _behind(name)
    if source.pack is not None:
        source.pack.verify()
    embedder = load_scorer(context, source)
    if not embeds(embedder):
        raise ModelUnsupported(f"{embedder.info.id!r} only scores; name a scorer that embeds instead")
    return embedder


def _behind(name: str) -> Source:
    return Source(name, packs().get(name) or pack_in(Path(name)))


def _load_endpoint(context: LoadContext, source: Source) -> Scorer:
    from models.scorers.chat_endpoint import ChatScorer

    return ChatScorer(source.place, context.options.endpoint)


def _load_vision_language(context: LoadContext, source: Source) -> Scorer:
    placement = context.placement
    from models.scorers import vision_language

    with named_errors(context, "scorer", source):
        if source.folder is None and not HUB_ID.fullmatch(source.place):
            raise ModelNotFound("not found; use vlm: before a folder, a hub id OWNER/NAME or https://HOST/v1#MODEL")
        return vision_language.load_vision_language(source.folder or source.place, source.label, placement)


def _load_pack_scorer(context: LoadContext, source: Source) -> Embedder:
    placement, pack = context.placement, source.verified_pack()
    from models.scorers import open_clip

    assert pack is not None
    return open_clip.load_pack(pack, context.text_encoder(pack), placement, context.text_front(pack))


def _is_synthetic_scorer(source: Source) -> bool:
    return source.name in SCORER_KINDS


def _is_pack(source: Source) -> bool:
    return source.pack is not None


def _is_transformers_folder(source: Source) -> bool:
    """Whether it is a folder of transformers without open_clip's configuration."""
    folder = source.folder
    return (
        folder is not None and (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file()
    )


def _begins(prefix: str) -> Callable[[Source], bool]:
    return lambda source: source.prefix == prefix


def _is_endpoint(source: Source) -> bool:
    return source.prefix == VLM and "://" in source.place


SCORERS: tuple[Family[Embedder | Scorer], ...] = (
    Family("synthetic", _is_synthetic_scorer, lambda _, source: SCORER_KINDS[source.name](), needs_torch=False),
    Family("pack", _is_pack, _load_pack_scorer),
    Family("alias", lambda source: source.name in SCORER_ALIASES, _load_alias),
    Family("HPSv2", _begins(HPS), _load_hps),
    Family("aesthetic head", _begins(AESTHETIC), _load_aesthetic),
    Family("layout", _begins(LAYOUT), _load_layout),
    Family("chat endpoint", _is_endpoint, _load_endpoint, needs_torch=False),
    Family("vision-language", _begins(VLM), _load_vision_language),
    Family("transformers", _is_transformers_folder, _load_transformers),
    Family("open_clip", is_any, _load_open_clip),
)
"""Families of scorers, first match wins."""
