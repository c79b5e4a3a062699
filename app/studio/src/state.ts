// State and actions of the page. Components render these signals and call these actions.

import { batch, computed, effect, signal, untracked } from "@preact/signals";
import { address, api, GENERATIONS, Problem, type Asked, type Generation, type Ranked, type Reference, type Refining, type Service } from "./api";
import { change, drop, entry, kept, remember, running, type Running } from "./kept";
import { key, shut } from "./key";
import { follow, fresh, named, race, type Start } from "./race";
import { hold } from "./reference";
import { alike, own, reweighing, type Weights } from "./weights";

export interface Board {
  data: Ranked[];
  margin: number | null;
  marginError: number | null;
  lowConfidence: boolean;
  agreement: number | null;
  warnings: Generation["warnings"];
}

const EXPECTED = new Set(["below_min_score", "below_min_probability", "fewer_returned"]);

/** All candidates are requested, so warnings about missing ones are expected and hidden. */
function boardOf(made: Generation): Board {
  const { data, margin, margin_error: marginError, low_confidence: lowConfidence, agreement } = made;
  const warnings = made.warnings.filter((w) => !EXPECTED.has(w.code));
  return { data, margin, marginError, lowConfidence, agreement, warnings };
}

export const service = signal<Service | null>(null);
export const shown = signal<Generation | null>(null);
export const board = signal<Board | null>(null);
export const weights = signal<Weights | null>(null);
export const focus = signal<number | null>(null);
export const pair = signal<number[]>([]);
export const comparing = signal(false);
export const problem = signal<Problem | null>(null);
export const said = signal("");

export const changed = computed(() => {
  const now = weights.value;
  return shown.value !== null && now !== null && !alike(now, own(shown.value));
});

export const limits = computed(() => service.value?.limits ?? null);

/** The safety classifier, and the mode of requests that name none; null without a classifier. */
export const safety = computed(() => (service.value?.safety.classifier != null ? service.value.safety : null));

/** Models that requests can choose; empty unless there are several. */
export const models = computed(() => service.value?.data.filter((one) => one.serving && one.serving.state !== "failed") ?? []);

/** The chosen model; empty for the default one. */
export const wanted = kept("frontrunner.model", "");

/** The chosen model if it is served, else the default one; empty for a single model. */
export const model = computed(() => {
  const chosen = models.value.find((one) => one.id === wanted.value) ?? models.value.find((one) => one.serving?.default);
  return chosen?.id ?? "";
});

/** Scorers that the next generation asks for: the others embed and count nothing until their slider moves. */
export const scorers = computed(() => {
  if (models.value.some((one) => one.id === model.value && !one.serving?.default)) return []; // they are the default model's
  const known = service.value?.scorers.filter((one) => one.role === "main" || (one.role === "member" && one.embeds)) ?? [];
  return known.length > 1 ? known.map((one) => ({ name: one.id, weight: one.role === "main" ? 1 : 0 })) : [];
});

export const generator = computed(() => {
  const found = service.value?.data.find((one) => (model.value ? one.id === model.value : one.generator));
  return found?.generator ?? null;
});

let leaving = new AbortController();

export function open(): Promise<void> {
  addEventListener("hashchange", () => void visit());
  return enter();
}

const AGAIN_S = 3;

/** Load the service's models and limits, with retries, then restore the page. */
async function enter(): Promise<void> {
  try {
    service.value = await api.service();
    problem.value = null;
  } catch (error) {
    tell(error);
    if (shut.value !== null) return;
    if (error instanceof Problem && error.transient) {
      setTimeout(() => void enter(), 1000 * Math.min(error.retryS ?? AGAIN_S, AGAIN_S));
      return;
    }
  }
  const left = running.value;
  const asked = location.hash.slice(1);
  if (left && (asked === "" || asked === left.id)) await resume(left);
  else await visit();
}

/** Retry with this API key. */
export function unlock(given: string): Promise<void> {
  batch(() => {
    key.value = given.trim();
    shut.value = null;
    problem.value = null;
  });
  return enter();
}

/** Show the generation of the URL. */
async function visit(): Promise<void> {
  const id = location.hash.slice(1);
  depart();
  leaving = new AbortController();
  if (id === (shown.value?.id ?? "") && !race.value) return;
  const { signal: gone } = leaving;
  if (id === "") {
    clear();
    return;
  }
  if (running.value?.id === id) {
    await resume(running.value);
    return;
  }
  try {
    const made = await api.generation(id);
    if (gone.aborted) return;
    if (made.status === "succeeded") show(made);
    else if (made.error || made.status === "cancelled") ended(made);
    else await run(null, id, made.prompt, made.n_candidates);
    if (made.parent?.generation && shown.value?.id === id) await ancestors(id);
  } catch (error) {
    if (gone.aborted) return;
    clear();
    if (error instanceof Problem && error.status === 404) drop(id);
    tell(error);
  }
}

async function ancestors(id: string): Promise<void> {
  const line = await api.lineage(id);
  for (const made of line.data) if (!entry(made.id)) note(made);
}

export function clear(): void {
  batch(() => {
    shown.value = board.value = weights.value = focus.value = race.value = null;
    pair.value = [];
    comparing.value = false;
  });
}

function show(made: Generation): void {
  batch(() => {
    clear();
    problem.value = null;
    shown.value = made;
    board.value = boardOf(made);
    weights.value = own(made);
    focus.value = entry(made.id)?.picked ?? made.data[0]?.index ?? null;
  });
  note(made);
  if (location.hash.slice(1) !== made.id) location.hash = made.id;
}

function note(made: Generation): void {
  remember({
    id: made.id,
    prompt: made.ranking.prompt,
    created: made.created,
    parent: made.parent?.generation ?? null,
    kind: made.parent?.kind ?? "generation",
    best: made.data[0]?.index ?? null,
  });
}

/** `pictures` are the requested references, including uploads. */
export function generate(asked: Asked, pictures: Reference[]): Promise<void> {
  return begin(GENERATIONS, { ...asked, previews: 4 }, asked.prompt, asked.n_candidates, pictures);
}

export function refine(asked: Refining): Promise<void> {
  const from = shown.value;
  if (!from) return Promise.resolve();
  const prompt = asked.prompt ?? from.ranking.prompt;
  const body = { ...asked, previews: 4 };
  return begin(`${address(from.id)}/refine`, body, prompt, asked.n_candidates, own(from).references);
}

function begin(path: string, body: unknown, prompt: string, count: number, pictures: Reference[]): Promise<void> {
  leaving.abort();
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  running.value = { path, body, key, id: null, prompt, count };
  return run({ path, body, key }, null, prompt, count, pictures);
}

function resume({ path, body, key, id, prompt, count }: Running): Promise<void> {
  return run({ path, body, key }, id, prompt, count);
}

async function run(
  start: Start | null,
  id: string | null,
  prompt: string,
  count: number,
  pictures: Reference[] = [],
): Promise<void> {
  leaving = new AbortController();
  const here = leaving;
  batch(() => {
    clear();
    problem.value = null;
    race.value = fresh(id, prompt, count);
  });
  const stop = effect(() => {
    const known = race.value?.id;
    if (!known || here.signal.aborted) return;
    untracked(() => {
      if (running.value && running.value.id === null) running.value = { ...running.value, id: known };
      if (location.hash.slice(1) !== known) history.pushState(null, "", `#${known}`);
    });
  });
  try {
    const made = await follow(start, id, here.signal);
    running.value = null;
    hold(made.id, pictures);
    if (made.status === "succeeded") show(made);
    else ended(made);
  } catch (error) {
    if (here.signal.aborted) return;
    running.value = null;
    race.value = null;
    tell(error);
  } finally {
    stop();
  }
}

function ended(made: Generation): void {
  clear();
  tell(new Problem(made.error ? `The generation failed: ${made.error.message}.` : "The generation was cancelled.", 500));
}

/** Show an empty page. */
export function leave(): void {
  depart();
  running.value = null;
  problem.value = null;
  clear();
}

/** Stop watching. A generation without a response yet continues and enters the history once its id is known. */
function depart(): void {
  const left = running.value;
  const watched = race.value;
  leaving.abort();
  if (!watched) return;
  if (watched.id) found(watched.id, watched.prompt);
  else if (left && left.id === null) {
    running.value = null;
    named(left).then(
      (id) => id !== null && found(id, left.prompt),
      () => undefined, // rejected or unreachable: the generation does not exist
    );
  }
}

/** Add an unfinished generation to the history; opening it loads the rest. */
function found(id: string, prompt: string): void {
  if (!entry(id)) remember({ id, prompt, created: Date.now() / 1000, parent: null, kind: "generation", best: null });
}

/** Cancel the running generation. */
export async function callOff(): Promise<void> {
  const id = race.value?.id ?? null;
  const left = running.value;
  leaving.abort();
  running.value = null;
  clear();
  history.pushState(null, "", location.pathname);
  said.value = "The generation was cancelled.";
  const called = id ?? (left && (await named(left).catch(() => null)));
  if (called) await guarded(api.forget(called));
}

export function tell(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  problem.value = error instanceof Problem ? error : new Problem("Unexpected error in this page. Reload it.", 0);
}

export async function guarded<T>(doing: Promise<T>): Promise<T | null> {
  try {
    return await doing;
  } catch (error) {
    tell(error);
    return null;
  }
}

let asking = new AbortController();

async function rerank(made: Generation, now: Weights): Promise<void> {
  asking.abort();
  asking = new AbortController();
  const { signal: gone } = asking;
  try {
    const found = await api.rerank(made.id, reweighing(now, made), gone);
    if (gone.aborted || shown.value?.id !== made.id) return;
    board.value = boardOf(found);
    if (problem.value) problem.value = null;
  } catch (error) {
    if (!gone.aborted) tell(error);
  }
}

const SETTLE_MS = 40;
let settling: ReturnType<typeof setTimeout> | undefined;

effect(() => {
  const made = shown.value;
  const now = weights.value;
  clearTimeout(settling);
  if (made && now) settling = setTimeout(() => void rerank(made, now), SETTLE_MS);
});

export function weigh(part: Partial<Weights>): void {
  if (weights.value) weights.value = { ...weights.value, ...part };
}

export function unweigh(): void {
  if (shown.value) weights.value = own(shown.value);
}

/** Store the ranking on the page as a new generation. */
export async function keep(): Promise<void> {
  const made = shown.value;
  const now = weights.value;
  if (!made || !now) return;
  const kept = await guarded(api.keep(made.id, { ...reweighing(now, made), n: made.n }));
  if (kept) {
    hold(kept.id, now.references);
    show(kept);
    said.value = "The ranking is stored.";
  }
}

export function pick(index: number): void {
  const made = shown.value;
  if (!made) return;
  const taken = entry(made.id)?.picked === index;
  change(made.id, { picked: taken ? null : index });
  said.value = taken ? "No candidate is picked." : `Candidate ${index + 1} picked.`;
}

export function mark(index: number): void {
  const two = pair.value.includes(index) ? pair.value.filter((i) => i !== index) : [...pair.value, index].slice(-2);
  pair.value = two;
  comparing.value = two.length === 2;
}

export async function forget(id: string): Promise<void> {
  drop(id);
  if (shown.value?.id === id) location.hash = "";
  try {
    await api.forget(id);
  } catch (error) {
    if (!(error instanceof Problem && error.status === 404)) tell(error); // otherwise it was already deleted
  }
}
