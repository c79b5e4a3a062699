// Score itemisation: the contribution of each text, from the service's numbers.

import type { Generation, Inspected, Negative, Ranked, Scored } from "./api";

export interface Part {
  name: string;
  kind: "similarity" | "reference" | "negative" | "taste";
  value: number;
}

/** Parts that add up to the score, weighted as in the service. */
export function parts(scored: Scored, negativeWeight: number): Part[] {
  const named = scored.references.map((one, place) => ({ ...one, name: `reference ${place + 1}` }));
  const [liked, unwanted] = [named.filter((one) => one.weight > 0), named.filter((one) => one.weight < 0)];
  const mixed = 1 + sum(liked.map((one) => one.weight));
  const against = [...scored.negatives, ...unwanted];
  const total = sum(against.map((one) => Math.abs(one.weight)));
  const taken = (one: { weight: number; similarity: number }) =>
    -(negativeWeight * Math.abs(one.weight) * Math.max(0, one.similarity)) / total;
  return [
    { name: "like the prompt", kind: "similarity", value: scored.prompt_similarity / mixed },
    ...liked.map<Part>((one) => ({ name: `like ${one.name}`, kind: "reference", value: (one.weight * one.similarity) / mixed })),
    ...scored.negatives.map<Part>((one) => ({ name: `unlike “${one.text}”`, kind: "negative", value: taken(one) })),
    ...unwanted.map<Part>((one) => ({ name: `unlike ${one.name}`, kind: "negative", value: taken(one) })),
    ...(scored.contrast !== 0 ? [{ name: "like near misses", kind: "negative", value: -scored.contrast } satisfies Part] : []),
    ...(scored.taste !== 0 ? [{ name: "your taste", kind: "taste", value: scored.taste } satisfies Part] : []),
  ];
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Whether the score is that of several scorers, in standard deviations. */
export function isCombined(scored: Scored): boolean {
  const own = Object.values(scored.scores);
  return own.length > 1 && !own.includes(scored.score);
}

/** What the parts of a score add up to: the score of the main scorer alone. */
export function ownScore(scored: Scored, negativeWeight: number): number {
  return sum(parts(scored, negativeWeight).map((part) => part.value));
}

/** The longest bar of the candidates, which corresponds to 100 %. */
export function reach(field: Ranked[], negativeWeight: number): number {
  return Math.max(0.05, ...field.map((r) => Math.max(r.similarity, ownScore(r, negativeWeight))));
}

/** The place of a value between the lowest and the highest, from 0 to 1. */
export function between(value: number, field: number[]): number {
  const [low, high] = [Math.min(...field), Math.max(...field)];
  return high > low ? (value - low) / (high - low) : 1;
}

export function written(value: number): string {
  return value.toFixed(3).replace("-", "−");
}

export function signed(value: number, digits = 3): string {
  const size = Math.abs(value).toFixed(digits);
  return Number(size) === 0 ? size : `${value < 0 ? "−" : "+"}${size}`;
}

/** What the calibrated probability of a match says, as a sentence. */
export function likelihood(probability: number): string {
  const told =
    probability < 0.01 ? "fewer than 1" : probability > 0.99 ? "more than 99" : `about ${Math.round(100 * probability)}`;
  return `Of 100 images with this similarity, ${told} show the prompt rather than another one.`;
}

/** The lead over the runner-up, with its standard error where that is known. */
export function lead(margin: number, error: number | null): string {
  if (error === null) return `${written(margin)} ahead of the runner-up`;
  const told = margin < error ? "too close to tell from the runner-up" : "ahead of the runner-up";
  return `${written(margin)} ± ${written(error)} ${told}`;
}

export function ordinal(rank: number): string {
  const last = rank % 100 > 10 && rank % 100 < 14 ? 0 : rank % 10;
  return `${rank}${["th", "st", "nd", "rd"][last] ?? "th"}`;
}

export function duration(seconds: number): string {
  if (seconds < 1.5) return "about a second";
  if (seconds < 90) return `about ${Math.round(seconds)} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

/** The negatives of a generation: the negative prompt, if the score uses it, and the others. */
export function markedDown(made: Generation): { avoided: string; negatives: Negative[] } {
  const [first, ...others] = made.ranking.negatives;
  const steered = first !== undefined && made.negative_prompt !== "" && first.text === made.negative_prompt;
  return steered
    ? { avoided: made.negative_prompt, negatives: others }
    : { avoided: "", negatives: made.ranking.negatives };
}

/** What a safety classifier that flags an image says. It is no certainty. */
export function unsafe(found: { model: string }): string {
  return `flagged by the safety classifier ${found.model}`;
}

/** The flags of an image with their reasons, such as "flagged artefact (noisy)". Empty without flags. */
export function flagged(one: Inspected): string {
  const told = one.flags.map((flag) => `${flag} (${(one.flag_reasons[flag] ?? []).join(", ")})`);
  return told.length > 0 ? `flagged ${told.join(", ")}` : "";
}
