// A running generation: follows its event log to the end, reconnects, and holds its state.

import { signal } from "@preact/signals";
import { address, api, call, posted, Problem, type Generation } from "./api";
import { messages, type Message } from "./sse";

export interface Runner {
  index: number;
  score: number | null;
  image: string | null;
  prunedAt: number | null;
  finished: boolean;
}

export interface Race {
  id: string | null;
  prompt: string;
  runners: Runner[];
  step: number;
  steps: number;
  live: number;
  begun: boolean;
  seen: { at: number; share: number } | null;
  attempt: number;
  waiting: string | null;
}

/** The running generation on the page, if any. */
export const race = signal<Race | null>(null);

export function fresh(id: string | null, prompt: string, count: number): Race {
  const runners = Array.from({ length: count }, (_, index) => blank(index));
  return { id, prompt, runners, step: 0, steps: 0, live: count, begun: false, seen: null, attempt: 1, waiting: null };
}

function blank(index: number): Runner {
  return { index, score: null, image: null, prunedAt: null, finished: false };
}

/** The state after one event. */
export function after(state: Race, event: string, data: unknown): Race {
  switch (event) {
    case "loading":
      return { ...state, waiting: "Loading the model" };
    case "started": {
      const { attempt } = data as { attempt: number };
      const again = attempt > state.attempt ? fresh(state.id, state.prompt, state.runners.length) : state;
      return { ...again, attempt, begun: true, waiting: null };
    }
    case "step": {
      const told = data as { step: number; steps: number; live: number };
      return { ...state, step: told.step, steps: told.steps, live: told.live };
    }
    case "preview": {
      const told = data as { index: number; score: number | null; image: string | null };
      return changed(state, [told.index], () => ({ score: told.score, image: told.image }));
    }
    case "pruned": {
      const told = data as { indices: number[]; step: number };
      return changed(state, told.indices, () => ({ prunedAt: told.step }));
    }
    case "candidate": {
      const told = data as { index: number; score: number | null };
      return changed(state, [told.index], () => ({ score: told.score, finished: true }));
    }
    default:
      return state;
  }
}

function changed(state: Race, indices: number[], change: () => Partial<Runner>): Race {
  const runners = [...state.runners];
  for (const index of indices) {
    while (runners.length <= index) runners.push(blank(runners.length));
    runners[index] = { ...(runners[index] ?? blank(index)), ...change() };
  }
  return { ...state, runners };
}

/** Candidates in their current order: live ones by score, then pruned ones. */
export function standings(state: Race): Runner[] {
  return [...state.runners].sort(
    (a, b) =>
      Number(a.prunedAt !== null) - Number(b.prunedAt !== null) ||
      (b.score ?? -Infinity) - (a.score ?? -Infinity) ||
      a.index - b.index,
  );
}

/** Share of completed steps, 0 to 1. */
export function progress(state: Race): number {
  return state.steps > 0 ? Math.min(1, state.step / state.steps) : 0;
}

/** Estimated seconds left, from the pace since watching began; null while unknown. Replayed events have no pace. */
export function secondsLeft(state: Race, now: number): number | null {
  if (state.seen === null) return null;
  const share = progress(state);
  const run = share - state.seen.share;
  return run < 0.05 ? null : ((now - state.seen.at) * (1 - share)) / run / 1000;
}

export interface Start {
  path: string;
  body: unknown;
  key: string;
}

const PAUSES_S = [0.5, 1, 2, 3, 5];

/**
 * Follow a generation to its end, from its `id` or by `start`. After a break, `start` is repeated; its idempotency key
 * gives the same generation. Resolves with the finished generation. Rejects with a Problem for the user.
 */
export async function follow(start: Start | null, id: string | null, signal: AbortSignal): Promise<Generation> {
  lay();
  let last = 0;
  for (let breaks = 0; ; breaks += 1) {
    try {
      const answer = await open(start, id, last, signal);
      if (answer.status === 204 && id !== null) return await api.generation(id);
      id ??= nameIn(answer);
      move((state) => ({ ...state, id, waiting: null }));
      for await (const message of messages(answer.body as ReadableStream<Uint8Array>)) {
        breaks = 0;
        last = message.id || last;
        const ended = take(message);
        if (ended) return ended;
      }
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof Problem && !error.transient) throw error;
      if (error instanceof Problem && id === null && error.status === 503) throw error;
      const pause = (error instanceof Problem ? error.retryS : null) ?? PAUSES_S[Math.min(breaks, PAUSES_S.length - 1)];
      move((state) => ({ ...state, seen: null, waiting: "Connection lost. Reconnecting…" }));
      await sleep(1000 * Math.min(pause ?? 5, 5), signal);
    }
  }
}

function open(start: Start | null, id: string | null, last: number, signal: AbortSignal): Promise<Response> {
  const accept = { accept: "text/event-stream" };
  if (id !== null) {
    return call(`${address(id)}/events`, { headers: { ...accept, "last-event-id": String(last) }, signal });
  }
  if (start === null) throw new Error("neither a start nor an id");
  return call(start.path, { ...posted(start.body, { ...accept, "idempotency-key": start.key }), signal });
}

/** The id of a generation without a response yet; the idempotency key gives the same one. */
export async function named({ path, body, key }: Start): Promise<string | null> {
  const answer = await call(path, posted(body, { "idempotency-key": key, prefer: "respond-async" }));
  return nameIn(answer);
}

function nameIn(answer: Response): string | null {
  return answer.headers.get("location")?.split("/").pop() ?? null;
}

function take(message: Message): Generation | null {
  const data: unknown = JSON.parse(message.data);
  if (message.event === "error") throw new Problem((data as { error: { message: string } }).error.message, 503);
  if (["succeeded", "failed", "cancelled"].includes(message.event)) return data as Generation;
  move((state) => after(state, message.event, data));
  return null;
}

/** Hundreds of events may arrive at once; the page renders them together. */
const DRAW_MS = 60;
const DRAW_EACH_MS = 1.5;
let ahead: Race | null = null;
let due: ReturnType<typeof setTimeout> | undefined;

function move(change: (state: Race) => Race): void {
  const state = ahead ?? race.value;
  if (!state) return;
  ahead = change(state);
  due ??= setTimeout(draw, Math.max(DRAW_MS, DRAW_EACH_MS * state.runners.length));
}

function draw(): void {
  if (ahead && race.value) {
    const seen = ahead.begun ? (ahead.seen ?? { at: Date.now(), share: progress(ahead) }) : null;
    race.value = { ...ahead, seen };
  }
  lay();
}

/** Discard state that is not rendered yet. */
function lay(): void {
  clearTimeout(due);
  due = undefined;
  ahead = null;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("left", "AbortError"));
    });
  });
}
