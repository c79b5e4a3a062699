// Code that repeats the generation on the page. The API key appears as a variable only.

import { address, GENERATIONS, type Generation } from "./api";
import { key } from "./key";
import { askedOf, referencesOf } from "./reference";
import { markedDown } from "./score";

const VARIABLE = "FRONTRUNNER_KEY";

/** Whether the code can contain every input; uploads of earlier visits are lost. */
export function whole(made: Generation): boolean {
  const references = referencesOf(made);
  return askedOf(references).length === references.length && !(made.parent && made.parent.generation === null) && !made.masked && made.control.length === 0;
}

interface Request {
  path: string;
  body: Record<string, unknown>;
}

function request(made: Generation): Request {
  const { ranking, parent } = made;
  const { negatives } = markedDown(made);
  const weighed = {
    ...(ranking.prompt !== made.prompt ? { prompt: ranking.prompt } : {}),
    negative_weight: ranking.negative_weight,
    negatives,
    diversity: ranking.diversity,
    min_score: ranking.min_score,
    ...(ranking.min_probability !== null ? { min_probability: ranking.min_probability } : {}),
    ...(ranking.balance !== null ? { balance: ranking.balance } : {}),
    ...(ranking.references.length > 0 ? { references: askedOf(referencesOf(made)) } : {}),
    ...(ranking.scorers.length > 0 ? { scorers: ranking.scorers, uncertainty: ranking.uncertainty } : {}),
    ...(ranking.contrast ? { contrast: true } : {}),
    ...(ranking.cascade !== null ? { cascade: ranking.cascade } : {}),
    ...(ranking.veto.length > 0 ? { veto: ranking.veto } : {}),
    ...(ranking.taste ? { taste: { profile: ranking.taste.profile, weight: ranking.taste.weight } } : {}),
  };
  if (parent?.kind === "rerank") {
    const body = { ranking: { ...weighed, prompt: ranking.prompt, negatives: ranking.negatives }, n: made.n };
    return { path: `${address(parent.generation ?? "")}/rerank`, body };
  }
  const cuts = made.checkpoints.filter((checkpoint) => checkpoint.keep !== null); // the others are for previews only
  const sampled = {
    prompt: made.prompt,
    ...(made.negative_prompt ? { negative_prompt: made.negative_prompt } : {}),
    n_candidates: made.n_candidates,
    n: made.n,
    steps: made.steps,
    guidance_scale: made.guidance_scale,
    sampler: made.sampler,
    seed: made.seed,
    ...(made.steering ? { steering: made.steering } : {}),
    pruning: cuts.length > 0 ? cuts : "off",
    provenance: made.provenance,
    ...(made.safety !== "off" ? { safety: made.safety } : {}),
    ...(made.deterministic ? { deterministic: true } : {}),
    ranking: weighed,
  };
  if (parent?.generation && parent.index !== null) {
    const body = { index: parent.index, strength: made.strength, ...sampled };
    return { path: `${address(parent.generation)}/refine`, body };
  }
  const texts = variants(made);
  return { path: GENERATIONS, body: { ...sampled, size: made.size, ...(texts.length > 0 ? { variants: texts } : {}) } };
}

/** The texts that candidates were sampled from, none if all have the prompt. Consecutive seeds take them in turn. */
export function variants(made: Generation): string[] {
  const texts = made.candidates.map((one) => one.wording ?? made.prompt);
  if (texts.every((text) => text === made.prompt)) return [];
  let count = 1;
  while (texts.some((text, place) => place >= count && text !== texts[place - count])) count += 1;
  const first = texts.slice(0, count);
  return first.map((_, place) => first[(((place - made.seed) % count) + count) % count] ?? made.prompt);
}

/** `base` is the URL of the page. */
export function asCurl(made: Generation, base: string): string {
  const { path, body } = request(made);
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  const lock = key.value ? ` \\\n  -H "Authorization: Bearer $${VARIABLE}"` : "";
  return `curl -s ${new URL(path, base).href}${lock} \\\n  -H 'Content-Type: application/json' \\\n  -d '${text}'`;
}

export function asPython(made: Generation, base: string): string {
  const { path, body } = request(made);
  const lines = Object.entries(body).map(([name, value]) => `    ${JSON.stringify(name)}: ${literal(value)},`);
  const lock = key.value ? `, headers={"Authorization": "Bearer " + os.environ["${VARIABLE}"]}` : "";
  return [
    ...(key.value ? ["import os", ""] : []),
    "import httpx",
    "",
    "asked = {",
    ...lines,
    "}",
    `made = httpx.post(${JSON.stringify(new URL(path, base).href)}, json=asked${lock}, timeout=None).raise_for_status().json()`,
    'print(made["data"][0]["url"], made["data"][0]["score"])',
    "",
  ].join("\n");
}

function literal(value: unknown): string {
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([name, item]) => `${JSON.stringify(name)}: ${literal(item)}`)
      .join(", ")}}`;
  }
  return JSON.stringify(value);
}
