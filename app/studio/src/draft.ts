// The form of the next generation. Texts survive a reload; images do not.

import { signal } from "@preact/signals";
import { type Asked, type Generation, type Negative, type Provenance, type Quality, type Reference, type Safety } from "./api";
import { variants as texts } from "./copying";
import { kept, profile, voted } from "./kept";
import { askedOf, known, referencesOf } from "./reference";
import { markedDown } from "./score";
import { generator, limits, model, models, safety, scorers } from "./state";

export interface Draft {
  prompt: string;
  avoided: string;
  negatives: Negative[];
  candidates: number | null;
  n: number;
  pruning: "auto" | "off";
  steps: string;
  guidance: string;
  sampler: string;
  seed: string;
  provenance: "" | Provenance;
  strength: number;
  steering: number;
  quality: "" | Quality;
  wordings: number;
  variants: string;
  veto: string[];
  safety: "" | Safety;
  taste: boolean;
}

const BLANK: Draft = {
  prompt: "",
  avoided: "",
  negatives: [],
  candidates: null,
  n: 3,
  pruning: "auto",
  steps: "",
  guidance: "",
  sampler: "",
  seed: "",
  provenance: "",
  strength: 0.75,
  steering: 0,
  quality: "",
  wordings: 0,
  variants: "",
  veto: [],
  safety: "",
  taste: false,
};

export const draft = kept<Draft>("frontrunner.draft", BLANK);
export const references = signal<Reference[]>([]);

/** The start image of the candidates, a data: URI. */
export const start = signal<string | null>(null);

export function set(part: Partial<Draft>): void {
  draft.value = { ...draft.value, ...part };
}

export function candidates(): number {
  const { quality } = draft.value;
  const usual = quality ? generator.value?.quality[quality].n_candidates : limits.value?.default_candidates;
  return Math.min(draft.value.candidates ?? usual ?? 16, limits.value?.candidates ?? 64);
}

/** The texts to sample from: those that were written, or a number that the server makes. */
function variants(): Pick<Asked, "variants"> {
  const texts = draft.value.variants.split("\n").map((line) => line.trim()).filter(Boolean);
  if (texts.length > 0) return { variants: texts };
  return draft.value.wordings > 1 ? { variants: { auto: draft.value.wordings } } : {};
}

/** The safety modes that a request can ask for: none without a classifier, and none weaker than a veto of the server. */
export function modes(): Safety[] {
  if (safety.value === null) return [];
  return safety.value.default === "veto" ? ["veto"] : ["off", "flag", "veto"];
}

export function asked(): Asked {
  const { prompt, avoided, negatives, n, pruning, steps, guidance, sampler, seed, provenance, strength, steering, quality, veto, safety: mode, taste } = draft.value;
  return {
    prompt,
    ...(models.value.length > 1 && model.value ? { model: model.value } : {}),
    ...(avoided.trim() ? { negative_prompt: avoided } : {}),
    n_candidates: candidates(),
    n: Math.min(n, candidates()),
    ...(pruning === "off" ? { pruning } : {}),
    ...(steps ? { steps: Number(steps) } : {}),
    ...(guidance ? { guidance_scale: Number(guidance) } : {}),
    ...(sampler ? { sampler } : {}),
    ...(seed ? { seed: Number(seed) } : {}),
    ...(provenance ? { provenance } : {}),
    ...(steering > 0 && generator.value?.steering ? { steering: { scale: steering } } : {}),
    ...(quality ? { quality } : {}),
    ...(mode && modes().includes(mode) ? { safety: mode } : {}),
    ...variants(),
    ...(start.value !== null ? { image: start.value, strength } : {}),
    ranking: {
      negatives: negatives.filter((one) => one.text.trim()),
      ...(references.value.length > 0 ? { references: askedOf(references.value) } : {}),
      ...(scorers.value.length > 0 ? { scorers: scorers.value } : {}),
      ...(veto.length > 0 ? { veto } : {}),
      ...(taste && voted.value > 0 ? { taste: { profile: profile.value, weight: 1 } } : {}),
    },
  };
}

/** The variants of a generation, without the styles that the server adds to every prompt. */
function written(made: Generation): string[] {
  return made.candidates.every((one) => one.style !== null) ? [] : texts(made);
}

/** Fill the form from an earlier generation, except the seed. */
export function like(made: Generation): void {
  const { avoided, negatives } = markedDown(made);
  set({
    prompt: made.ranking.prompt,
    avoided: avoided || made.negative_prompt,
    negatives,
    candidates: made.n_candidates,
    n: made.n,
    steps: String(made.steps),
    guidance: String(made.guidance_scale),
    sampler: made.sampler,
    seed: "",
    provenance: made.provenance,
    steering: made.steering?.scale ?? 0,
    quality: "",
    wordings: 0,
    variants: written(made).join("\n"),
    veto: made.ranking.veto,
    safety: made.safety === safety.value?.default ? "" : made.safety,
  });
  references.value = referencesOf(made).filter(known);
  start.value = null;
}
