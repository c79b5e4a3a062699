"""What an audit says of its own limits."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain import Generation, Notice
from app.engine.audits.findings import AttributeFinding, AuditedField
from app.service.audits.probe import Probe

FEW_FIELDS = 20
"""Generations below which the audit warns that it finds large effects only."""


def limits_of(
    probe: Probe,
    sources: Sequence[Generation],
    fields: Sequence[AuditedField],
    findings: Sequence[AttributeFinding],
) -> tuple[Notice, ...]:
    """What limits the audit."""
    rough = (
        "a zero-shot probe decides what images show; it errs, and may be biased itself: check a sample by eye. "
        "It says nothing about people, only about how images look to it."
    )
    found = [Notice("probe_is_rough", rough, {"probe": probe.info.id})]
    if probe.ranks:
        detail = "the probe took part in the ranking, so that its own errors look like preferences of the ranking"
        found.append(Notice("probe_ranks", detail, {"probe": probe.info.id}))
    if len(sources) < FEW_FIELDS:
        detail = f"only large preferences are found in few generations: audit at least {FEW_FIELDS}, not {len(sources)}"
        found.append(Notice("few_generations", detail, {"generations": len(sources), "advised": FEW_FIELDS}))
    if pruned := sum(c.pruned_at_step is not None for source in sources for c in source.candidates):
        detail = "the probe saw the last previews of pruned candidates, which are less clear than finished images"
        found.append(Notice("pruned_by_preview", detail, {"candidates": pruned}))
    vague = [
        f.name for f in findings if f.undetermined.interval.share is not None and f.undetermined.interval.share > 0.5
    ]
    if vague:
        detail = "more than half of the candidates are undetermined: use texts that describe what images show"
        found.append(Notice("mostly_undetermined", detail, {"attributes": vague}))
    if whole := [
        source.id for source, field in zip(sources, fields, strict=True) if len(field.won) and field.won.all()
    ]:
        detail = "all candidates of these generations won, so that they do not show what the ranking favours: send `n`"
        found.append(Notice("all_won", detail, {"generations": whole}))
    return tuple(found)


def losses(lost: Sequence[Generation]) -> tuple[Notice, ...]:
    """What is said of the prompts whose generations did not succeed."""
    if not lost:
        return ()
    rows = [
        {"generation": each.id, "prompt": each.spec.prompt, "code": each.failure.code if each.failure else "cancelled"}
        for each in lost
    ]
    detail = f"{len(lost)} generations did not succeed and are left out of the audit"
    return (Notice("generations_left_out", detail, {"generations": rows}),)
