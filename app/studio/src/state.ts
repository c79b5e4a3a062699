// What is on the page and everything a person can do with it. Components draw these signals and call these actions.

import { batch, computed, effect, signal, untracked } from "@preact/signals";
import { api, Problem, type Asked, type Generation, type Negative, type Ranked, type Refining, type Reweighing, type Service } from "./api";
import { change, drop, entries, entry, profile, remember, running, voted } from "./kept";
import { follow, fresh, race, type Start } from "./race";
import { markedDown } from "./score";

export interface Weights {
  prompt: string;
  avoided: string;
  negatives: Negative[];
  negativeWeight: number;
  diversity: number;
  minScore: number | null;
  taste: number;
}

export interface Board {
  data: Ranked[];
  margin: number | null;
  lowConfidence: boolean;
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
  return shown.value !== null && now !== null && JSON.stringify(now) !== JSON.stringify(own(shown.value));
});

export const limits = computed(() => service.value?.limits ?? null);
export const generator = computed(() => service.value?.data.find((m) => m.generator)?.generator ?? null);

let leaving = new AbortController();

/** The weights that a generation was ranked by. */
function own(made: Generation): Weights {
  return {
    prompt: made.ranking.prompt,
    ...markedDown(made),
    negativeWeight: made.ranking.negative_weight,
    diversity: made.ranking.diversity,
    minScore: made.ranking.min_score,
    taste: 0,
  };
}

export async function open(): Promise<void> {
  addEventListener("hashchange", () => void visit());
  try {
    service.value = await api.service();
  } catch (error) {
    tell(error);
  }
  const left = running.value;
  if (left) await run({ path: left.path, body: left.body, key: left.key }, left.id, left.prompt, left.count);
  else await visit();
}

/** Show what the address names. */
async function visit(): Promise<void> {
  const id = location.hash.slice(1);
  if (id === (shown.value?.id ?? "") && !race.value) return;
  leaving.abort();
  if (id === "") {
    clear();
    return;
  }
  if (running.value?.id === id) {
    const { path, body, key, prompt, count } = running.value;
    await run({ path, body, key }, id, prompt, count);
    return;
  }
  try {
    const made = await api.generation(id);
    if (made.status === "succeeded") show(made);
    else if (made.error || made.status === "cancelled") ended(made);
    else await run(null, id, made.prompt, made.n_candidates);
    if (made.parent?.generation) await ancestors(id);
  } catch (error) {
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
    board.value = { data: made.data, margin: made.margin, lowConfidence: made.low_confidence };
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

export function generate(asked: Asked): Promise<void> {
  return begin("/v1/generations", { ...asked, previews: 4 }, asked.prompt, asked.n_candidates);
}

export function refine(asked: Refining): Promise<void> {
  const from = shown.value;
  if (!from) return Promise.resolve();
  const prompt = asked.prompt ?? from.ranking.prompt;
  return begin(`/v1/generations/${from.id}/refine`, { ...asked, previews: 4 }, prompt, asked.n_candidates);
}

function begin(path: string, body: unknown, prompt: string, count: number): Promise<void> {
  leaving.abort();
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  running.value = { path, body, key, id: null, prompt, count };
  return run({ path, body, key }, null, prompt, count);
}

async function run(start: Start | null, id: string | null, prompt: string, count: number): Promise<void> {
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
  tell(new Problem(made.error ? `The race failed: ${made.error.message}.` : "The race was called off.", 500));
}

/** Call off the race that is run. */
export async function callOff(): Promise<void> {
  const id = race.value?.id ?? null;
  leaving.abort();
  running.value = null;
  clear();
  history.pushState(null, "", location.pathname);
  said.value = "The race was called off.";
  if (id) await guarded(api.forget(id));
}

export function tell(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  problem.value = error instanceof Problem ? error : new Problem("Something unforeseen went wrong in this page.", 0);
}

async function guarded<T>(doing: Promise<T>): Promise<T | null> {
  try {
    return await doing;
  } catch (error) {
    tell(error);
    return null;
  }
}

/** The ranking that the weights ask for; fields that are as they were are left out, so that nothing else changes. */
export function reweighing(now: Weights, made: Generation): Reweighing {
  const before = own(made);
  const asked: Reweighing = { n: made.n_candidates };
  if (now.prompt.trim() && now.prompt !== before.prompt) asked.prompt = now.prompt;
  const texts = now.negatives.filter((n) => n.text.trim());
  if (now.avoided !== before.avoided || JSON.stringify(texts) !== JSON.stringify(before.negatives)) {
    asked.negative_prompt = now.avoided;
    asked.negatives = texts;
  }
  if (now.negativeWeight !== before.negativeWeight) asked.negative_weight = now.negativeWeight;
  if (now.diversity !== before.diversity) asked.diversity = now.diversity;
  if (now.minScore !== before.minScore) asked.min_score = now.minScore;
  if (now.taste > 0) asked.taste = { profile: profile.value, weight: now.taste };
  return asked;
}

let asking = new AbortController();

async function rerank(made: Generation, now: Weights): Promise<void> {
  asking.abort();
  asking = new AbortController();
  const { signal: gone } = asking;
  try {
    const found = await api.rerank(made.id, reweighing(now, made), gone);
    if (gone.aborted || shown.value?.id !== made.id) return;
    board.value = { data: found.data, margin: found.margin, lowConfidence: found.low_confidence };
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

/** Store the ranking on the page as a generation of its own. */
export async function keep(): Promise<void> {
  const made = shown.value;
  const now = weights.value;
  if (!made || !now) return;
  const kept = await guarded(api.keep(made.id, { ...reweighing(now, made), n: made.n }));
  if (kept) {
    show(kept);
    said.value = "The ranking is kept.";
  }
}

export async function vote(index: number, liked: 1 | -1): Promise<void> {
  const made = shown.value;
  if (!made) return;
  const done = await guarded(api.votes(profile.value, { generation: made.id, [liked > 0 ? "liked" : "disliked"]: [index] }));
  if (!done) return;
  change(made.id, { votes: { ...entry(made.id)?.votes, [index]: liked } });
  counted(done.liked + done.disliked + done.preferred);
  said.value = liked > 0 ? `Candidate ${index + 1} liked.` : `Candidate ${index + 1} disliked.`;
}

export async function prefer(index: number, over: number): Promise<void> {
  const made = shown.value;
  if (!made) return;
  const done = await guarded(api.votes(profile.value, { generation: made.id, preferred: [[index, over]] }));
  if (!done) return;
  counted(done.liked + done.disliked + done.preferred);
  said.value = `Candidate ${index + 1} preferred.`;
  batch(() => {
    comparing.value = false;
    focus.value = index;
  });
}

function counted(votes: number): void {
  voted.value = votes;
  if (weights.value && weights.value.taste > 0) weights.value = { ...weights.value };
}

export async function unlearn(): Promise<void> {
  if (!(await guarded(api.unlearn(profile.value)))) return;
  voted.value = 0;
  entries.value = entries.value.map((e) => ({ ...e, votes: {} }));
  weigh({ taste: 0 });
  said.value = "Your taste is forgotten.";
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
  await guarded(api.forget(id));
}
