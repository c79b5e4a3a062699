// A score taken apart: what each text gave and took, in the numbers that the service returned.

import type { Generation, Negative, Ranked, Scored } from "./api";

export interface Part {
  name: string;
  kind: "similarity" | "negative" | "taste" | "rest";
  value: number;
}

/** Parts that add up to the score. What the named ones leave open (references) is one part of its own. */
export function parts(scored: Scored, negativeWeight: number): Part[] {
  const total = scored.negatives.reduce((sum, n) => sum + n.weight, 0);
  const found: Part[] = [{ name: "like the prompt", kind: "similarity", value: scored.similarity }];
  for (const n of scored.negatives) {
    const taken = total > 0 ? (negativeWeight * n.weight * Math.max(0, n.similarity)) / total : 0;
    found.push({ name: n.text, kind: "negative", value: -taken });
  }
  if (scored.taste !== 0) found.push({ name: "your taste", kind: "taste", value: scored.taste });
  const open = scored.score - found.reduce((sum, part) => sum + part.value, 0);
  if (Math.abs(open) > 5e-4) found.push({ name: "reference pictures", kind: "rest", value: open });
  return found;
}

/** The longest bar of a field: what 100 % stands for. */
export function reach(field: Ranked[]): number {
  return Math.max(0.05, ...field.map((r) => Math.max(r.similarity, r.score)));
}

export function written(value: number): string {
  return value.toFixed(3).replace("-", "−");
}

export function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
}

export function duration(seconds: number): string {
  if (seconds < 1.5) return "about a second";
  if (seconds < 90) return `about ${Math.round(seconds)} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

/** What a generation marks down for: the text that also steered it, if that counts, and the others. */
export function markedDown(made: Generation): { avoided: string; negatives: Negative[] } {
  const [first, ...others] = made.ranking.negatives;
  const steered = first !== undefined && made.negative_prompt !== "" && first.text === made.negative_prompt;
  return steered
    ? { avoided: made.negative_prompt, negatives: others }
    : { avoided: "", negatives: made.ranking.negatives };
}
