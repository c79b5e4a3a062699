"""Early stopping by the combined score of an ensemble.

Owns the members' texts and the combined scores of a wave. Scorers without embeddings judge after the engine, so they
have no part in it. Engine thread only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from app.domain import GenerationSpec
from app.engine.pruning import wave_gain
from app.engine.ranking import ensemble, scoring
from app.engine.state import ActiveGeneration, Phase, Row
from models.protocols import Embedder


def member_query(member: Embedder, spec: GenerationSpec) -> scoring.Query:
    """The ranking of a generation as a member's own vectors have it: without taste."""
    name, ranking = member.info.id, spec.ranking
    texts = (spec.ranking_prompt, *(n.text for n in ranking.negatives))
    vectors = np.stack([member.embed_texts([text])[0].vector for text in texts])
    own = tuple(replace(r, vector=r.members[name]) for r in ranking.references if name in r.members)
    plain = replace(ranking, references=own, taste=None)
    return scoring.build_query(plain, vectors[0], vectors[1:], [n.weight for n in ranking.negatives])


def needs_wave(run: ActiveGeneration, main: str) -> bool:
    """Whether another wave is worthwhile, once all rows so far are done or pruned.

    By the combined score of the finished rows, if members have judged them; else by the main scorer's. A pruned row's
    place in the combined field is its predicted one by the main scorer, with an error for the members' disagreement.
    """
    wave, done = run.spec.wave, [r for r in run.rows if r.phase is Phase.DONE and np.isfinite(r.sort_score)]
    own = _scores(run, done, main)
    weights = run.spec.ranking.weights(main)
    if (
        wave is None
        or len(run.rows) >= run.spec.n_candidates
        or not any(weights[name] > 0 for name in own if name != main)
    ):
        return run.needs_wave()
    field = range(len(done))
    combined = ensemble.combine(own, weights, run.spec.ranking.uncertainty, field)
    values = np.asarray([r.sort_score for r in done], np.float64)
    apart, spread = combined - ensemble.standardise(values, field), float(values.std()) or 1.0
    pruned = [
        ((value - values.mean()) / spread + apart.mean(), float(np.hypot(error / spread, apart.std())))
        for value, error in run.predicted_finals(done)
    ]
    gain = wave_gain.expected_gain(combined.tolist(), pruned, run.spec.n, wave)
    return gain >= wave_gain.MIN_EXPECTED_GAIN


def _scores(run: ActiveGeneration, done: list[Row], main: str) -> dict[str, ensemble.Values]:
    """Own scores of finished rows, by each scorer that judged all of them."""
    named = run.spec.ranking.weights(main)
    own = {main: np.asarray([r.sort_score for r in done], np.float64)} if main in named else {}
    for name, query in run.member_queries.items():
        vectors = [r.member_embeddings[name] for r in done if name in r.member_embeddings]
        if name not in run.left_out and done and len(vectors) == len(done):
            scores = scoring.score_images(np.stack(vectors), query)
            own[name] = np.asarray([s.score for s in scores], np.float64)
    return own
