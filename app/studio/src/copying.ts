// The generation on the page as code that makes it again.

import type { Generation } from "./api";

function request(made: Generation): Record<string, unknown> {
  return {
    prompt: made.prompt,
    ...(made.negative_prompt ? { negative_prompt: made.negative_prompt } : {}),
    n_candidates: made.n_candidates,
    n: made.n,
    size: made.size,
    steps: made.steps,
    guidance_scale: made.guidance_scale,
    sampler: made.sampler,
    seed: made.seed,
    ranking: {
      negative_weight: made.ranking.negative_weight,
      negatives: made.ranking.negatives,
      diversity: made.ranking.diversity,
      min_score: made.ranking.min_score,
    },
  };
}

export function asCurl(made: Generation, origin: string): string {
  const body = JSON.stringify(request(made)).replaceAll("'", "'\\''");
  return `curl -s ${origin}/v1/generations \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

export function asPython(made: Generation, origin: string): string {
  const lines = Object.entries(request(made)).map(([name, value]) => `    ${JSON.stringify(name)}: ${literal(value)},`);
  return [
    "import httpx",
    "",
    "asked = {",
    ...lines,
    "}",
    `made = httpx.post(${JSON.stringify(`${origin}/v1/generations`)}, json=asked, timeout=None).raise_for_status().json()`,
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
