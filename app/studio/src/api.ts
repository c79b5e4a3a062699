// HTTP client of the studio: response types and requests. Every failure becomes a Problem.

import { shut, withKey } from "./key";

export interface Negative {
  text: string;
  weight: number;
}

/** A reference image, to be avoided if its weight is below 0: an upload as a data: URI, or a candidate. */
export interface Reference {
  image: string | null;
  generation: string | null;
  index: number | null;
  weight: number;
}

export interface Told {
  generation: string | null;
  index: number | null;
  weight: number;
  similarity: number;
}

/** A scorer of an ensemble; weight 0 has no effect. */
export interface ScorerUse {
  name: string;
  weight: number;
}

export interface Scored {
  score: number;
  scores: Record<string, number>;
  similarity: number;
  penalty: number;
  taste: number;
  contrast: number;
  prompt_similarity: number;
  negatives: (Negative & { similarity: number })[];
  references: Told[];
}

/** What guards found in an image, and the text that it was sampled from; null for the prompt. */
export interface Inspected {
  flags: string[];
  flag_reasons: Record<string, string[]>;
  wording: string | null;
  /** The style in the wording, where the server added one to the prompt. */
  style: string | null;
  /** What the safety classifier found, if it looked. */
  safety: { flagged: boolean; model: string } | null;
}

export interface Ranked extends Scored, Inspected {
  rank: number;
  index: number;
  seed: number;
  score_is_preview: boolean;
  duplicate_of: number | null;
  softmax: number | null;
  z_score: number | null;
  probability: number | null;
}

export interface Candidate extends Inspected {
  index: number;
  seed: number;
  /** Why a remote generator made no image; null for all others. */
  failure: string | null;
  score: number | null;
  pruned_at_step: number | null;
  duplicate_of: number | null;
}

/** What a safety classifier does: nothing, flag images, or exclude flagged ones. */
export type Safety = "off" | "flag" | "veto";

/** What image files say about their origin. */
export type Provenance = "none" | "metadata" | "c2pa";

export interface Generation {
  id: string;
  status: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  created: number;
  started: number | null;
  /** The main scorer: the parts of a score are its own. */
  scorer: string;
  prompt: string;
  negative_prompt: string;
  seed: number;
  n_candidates: number;
  n: number;
  size: string;
  output_size: string;
  steps: number;
  guidance_scale: number;
  sampler: string;
  steering: { scale: number; start: number; end: number } | null;
  checkpoints: { at: number; keep: number | null }[];
  deterministic: boolean;
  output_format: string;
  provenance: Provenance;
  safety: Safety;
  ranking: {
    prompt: string;
    negative_weight: number;
    negatives: Negative[];
    diversity: number;
    min_score: number | null;
    min_probability: number | null;
    balance: { attribute: string; values: Record<string, number> } | null;
    references: Omit<Told, "similarity">[];
    taste: { profile: string; weight: number } | null;
    scorers: ScorerUse[];
    uncertainty: number;
    contrast: boolean;
    cascade: number | null;
    veto: string[];
  };
  parent: { kind: "rerank" | "refine"; generation: string | null; index: number | null } | null;
  strength: number | null;
  masked: boolean;
  control: { kind: string; weight: number }[];
  queue_position: number | null;
  eta_seconds: number | null;
  data: Ranked[];
  candidates: Candidate[];
  margin: number | null;
  margin_error: number | null;
  low_confidence: boolean;
  agreement: number | null;
  referee: { name: string; winner: number; median: number } | null;
  warnings: { code: string; detail: string }[];
  timings: { total_ms: number };
  work: { rows_stepped: number; rows_unpruned: number };
  error: { code: string; message: string } | null;
}

export interface Service {
  data: {
    id: string;
    generator: {
      steps: number;
      guidance_scale: number;
      sampler: string;
      samplers: string[];
      width: number;
      height: number;
      controls: string[];
      steering: boolean;
      spread_styles: string[];
      quality: Record<Quality, { n_candidates: number; steps: number }>;
    } | null;
    serving?: { state: "loaded" | "loading" | "failed" | "waiting"; default: boolean };
  }[];
  safety: { default: Safety; classifier: string | null };
  scorers: { id: string; role: "main" | "member" | "referee"; embeds: boolean }[];
  limits: {
    candidates: number;
    default_candidates: number;
    steps: number;
    prompt_chars: number;
    negatives: number;
    references: number;
    installed_guards: string[];
  };
}

/** Candidates and steps that a request does not name. */
export type Quality = "draft" | "standard" | "best";

export interface TasteSummary {
  liked: number;
  disliked: number;
  preferred: number;
  agreement: number;
}

export interface Phrase {
  text: string;
  aspect: "content" | "style" | "composition";
  similarity: number;
  rank: number;
  heat_map: string;
}

/** The explanation of a candidate by phrases; ranks are among `of` candidates. */
export interface Why {
  of: number;
  phrases: Phrase[];
  negatives: Phrase[];
}

export interface Preset {
  group: string;
  name: string;
  prompt: string;
  negative: string;
}

/** A reference in a request. */
export type AskedReference = { weight: number } & ({ image: string } | { generation: string; index: number });

export interface Asked {
  prompt: string;
  negative_prompt?: string;
  model?: string;
  n_candidates: number;
  n: number;
  pruning?: "auto" | "off";
  safety?: Safety;
  steps?: number;
  guidance_scale?: number;
  sampler?: string;
  seed?: number;
  steering?: { scale: number };
  quality?: Quality;
  variants?: string[] | { auto: number };
  image?: string;
  strength?: number;
  control?: AskedControl[];
  ranking: AskedRanking;
}

export interface Refining {
  index: number;
  strength: number;
  mask?: string;
  prompt?: string;
  n_candidates: number;
  n: number;
}

/** An image that the composition follows, as a data: URI. */
export interface AskedControl {
  kind: string;
  image: string;
  weight: number;
}

/** How candidates are compared; an omitted field keeps its value, null resets it. */
export interface AskedRanking {
  prompt?: string;
  negatives?: Negative[];
  negative_weight?: number;
  diversity?: number;
  min_score?: number | null;
  references?: AskedReference[];
  taste?: { profile: string; weight: number } | null;
  scorers?: ScorerUse[] | null;
  veto?: string[] | null;
}

export interface Reweighing {
  ranking: AskedRanking;
  include_pruned?: boolean;
  n?: number;
}

/** A share with its interval at 95 %; null if nothing was counted. */
export interface Share {
  count: number;
  share: number | null;
  low: number | null;
  high: number | null;
}

export interface AuditedValue {
  text: string;
  candidates: Share;
  winners: Share;
  verdict: string;
}

/** What a probe found in candidates and winners. */
export interface Audit {
  probe: string;
  attributes: { values: AuditedValue[]; undetermined: Share; undetermined_winners: Share }[];
  warnings: { code: string; detail: string }[];
}

/** An error with a message for the user. `retryS` is the retry interval in seconds, if known. */
export class Problem extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly details: string[] = [],
    readonly retryS: number | null = null,
  ) {
    super(message);
  }

  get transient(): boolean {
    return this.status === 0 || this.status === 503 || this.status === 502 || this.status === 504;
  }
}

interface ProblemDocument {
  title?: string;
  detail?: string;
  errors?: { detail: string; pointer?: string; parameter?: string }[];
}

export async function call(path: string, init?: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, withKey(init));
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem("The service is unreachable. Check the connection.", 0);
  }
  if (answer.ok) return answer;
  const found = await problemOf(answer);
  if (found.status === 401) shut.value = found.message;
  throw found;
}

async function problemOf(answer: Response): Promise<Problem> {
  const retry = Number(answer.headers.get("retry-after"));
  let told: ProblemDocument = {};
  try {
    told = (await answer.json()) as ProblemDocument;
  } catch {
    // A proxy's error page has no message for the user.
  }
  const fields = (told.errors ?? []).map((e) => `${fieldName(e.pointer ?? e.parameter ?? "")}${e.detail}`);
  const words = told.detail ?? `The service returned HTTP status ${answer.status}.`;
  const message = fields.length > 0 ? (told.title ?? words) : words;
  return new Problem(sentence(message), answer.status, fields, retry > 0 ? retry : null);
}

function fieldName(pointer: string): string {
  const name = pointer.replace(/^#?\/?/, "").replaceAll("/", " › ").replaceAll("_", " ");
  return name ? `${name}: ` : "";
}

export function sentence(text: string): string {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

export function posted(body: unknown, headers: Record<string, string> = {}): RequestInit {
  return { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) };
}

export async function read<T>(path: string, init?: RequestInit): Promise<T> {
  return (await (await call(path, init)).json()) as T;
}

/** Relative, so that the page works under any path. */
export const GENERATIONS = "v1/generations";

export const address = (id: string): string => `${GENERATIONS}/${encodeURIComponent(id)}`;
export const picture = (id: string, index: number): string => `${address(id)}/images/${index}`;

const profileAddress = (profile: string): string => `v1/taste/${encodeURIComponent(profile)}`;

/** The URL of a candidate's image, at most `box` pixels per side. */
export function thumbnail(made: Generation, index: number, box: number): string {
  const larger = Math.max(...made.size.split("x").map(Number)) > box;
  return larger ? `${picture(made.id, index)}?size=${box}x${box}` : picture(made.id, index);
}

export const api = {
  service: () => read<Service>("v1/models"),
  generation: (id: string) => read<Generation>(address(id)),
  lineage: (id: string) => read<{ data: Generation[] }>(`${address(id)}/lineage`),
  rerank: (id: string, asked: Reweighing, signal: AbortSignal) =>
    read<Generation>(`${address(id)}/rerank`, { ...posted(asked), signal }),
  keep: (id: string, asked: Reweighing) =>
    read<Generation>(`${address(id)}/rerank`, posted({ ...asked, store: true })),
  forget: (id: string) => call(address(id), { method: "DELETE" }),
  why: (id: string, index: number, prompt: string, signal: AbortSignal) =>
    read<Why>(`${address(id)}/candidates/${index}/why?${new URLSearchParams({ prompt }).toString()}`, { signal }),
  audit: (asked: object) => read<Audit>("v1/audits", posted(asked)),
  presets: () => read<{ data: Preset[] }>("v1/presets"),
  profiles: () => read<{ data: string[] }>("v1/taste"),
  taste: (profile: string) => read<TasteSummary>(profileAddress(profile)),
  votes: (profile: string, votes: object) => read<TasteSummary>(`${profileAddress(profile)}/votes`, posted(votes)),
  unlearn: (profile: string) => call(profileAddress(profile), { method: "DELETE" }),
  tasteFile: (profile: string) => read<object>(`${profileAddress(profile)}/export`),
  bringTaste: (profile: string, file: unknown) =>
    read<TasteSummary>(profileAddress(profile), { ...posted(file), method: "PUT" }),
};
