// Ranking weights: those of a generation, and the re-rank request for changed ones.

import type { AskedRanking, Generation, Negative, Reference, Reweighing, ScorerUse } from "./api";
import { profile } from "./kept";
import { askedOf, referencesOf } from "./reference";
import { markedDown } from "./score";

export interface Weights {
  prompt: string;
  avoided: string;
  negatives: Negative[];
  negativeWeight: number;
  diversity: number;
  minScore: number | null;
  references: Reference[];
  taste: number;
  scorers: ScorerUse[];
  pruned: boolean | null;
}

/** The weights of a generation's ranking. */
export function own(made: Generation): Weights {
  return {
    prompt: made.ranking.prompt,
    ...markedDown(made),
    negativeWeight: made.ranking.negative_weight,
    diversity: made.ranking.diversity,
    minScore: made.ranking.min_score,
    references: referencesOf(made),
    taste: made.ranking.taste?.weight ?? 0,
    scorers: made.ranking.scorers,
    pruned: null,
  };
}

export function alike(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** The re-rank request for the weights; unchanged fields are omitted. */
export function reweighing(now: Weights, made: Generation): Reweighing {
  const before = own(made);
  const ranking: AskedRanking = {};
  const asked: Reweighing = { n: made.n_candidates, ranking };
  if (now.prompt.trim() && now.prompt !== before.prompt) ranking.prompt = now.prompt;
  const texts = now.negatives.filter((n) => n.text.trim());
  if (now.avoided !== before.avoided || !alike(texts, before.negatives)) {
    ranking.negatives = now.avoided.trim() ? [{ text: now.avoided, weight: 1 }, ...texts] : texts;
  }
  if (now.negativeWeight !== before.negativeWeight) ranking.negative_weight = now.negativeWeight;
  if (now.diversity !== before.diversity) ranking.diversity = now.diversity;
  if (now.minScore !== before.minScore) ranking.min_score = now.minScore;
  if (!alike(now.references, before.references)) ranking.references = askedOf(now.references);
  if (now.taste !== before.taste) ranking.taste = now.taste > 0 ? { profile: profile.value, weight: now.taste } : null;
  if (!alike(now.scorers, before.scorers)) ranking.scorers = now.scorers;
  if (now.pruned !== null) asked.include_pruned = now.pruned;
  return asked;
}
