// Browser storage: generations made here, picks, votes, and the name of the taste profile.

import { effect, signal } from "@preact/signals";

export interface Entry {
  id: string;
  prompt: string;
  created: number;
  parent: string | null;
  kind: "generation" | "rerank" | "refine";
  best: number | null;
  picked: number | null;
  votes: Record<string, 1 | -1>;
}

export interface Running {
  path: string;
  body: unknown;
  key: string;
  id: string | null;
  prompt: string;
  count: number;
}

/** Storage of the browser for all tabs, or of one tab. Access may be denied and then throws. */
type Place = () => Storage;

const browser: Place = () => localStorage;
const tab: Place = () => sessionStorage;

function loaded<T>(name: string, otherwise: T, place: Place): T {
  try {
    const text = place().getItem(name);
    if (text === null) return otherwise;
    const found = JSON.parse(text) as T;
    const named = typeof otherwise === "object" && otherwise !== null && !Array.isArray(otherwise);
    return named ? Object.assign({}, otherwise, found) : found; // an older page stored fewer fields
  } catch {
    return otherwise;
  }
}

export function kept<T>(name: string, otherwise: T, place = browser) {
  const held = signal<T>(loaded(name, otherwise, place));
  effect(() => {
    const text = JSON.stringify(held.value);
    try {
      if (place().getItem(name) !== text) place().setItem(name, text);
    } catch {
      // Full or denied: the page continues without storage.
    }
  });
  addEventListener("storage", (event) => {
    if (event.key === name && place === browser) held.value = loaded(name, otherwise, place); // another tab wrote it
  });
  return held;
}

const MOST = 200;

export const entries = kept<Entry[]>("frontrunner.history", []);
export const running = kept<Running | null>("frontrunner.running", null, tab);
export const profile = kept<string>("frontrunner.profile", `studio-${crypto.getRandomValues(new Uint32Array(1))[0]?.toString(36) ?? "me"}`);
export const voted = kept<number>("frontrunner.votes", 0);

export function entry(id: string | null): Entry | undefined {
  return entries.value.find((e) => e.id === id);
}

export function remember(made: Omit<Entry, "picked" | "votes">): void {
  const known = entry(made.id);
  const whole: Entry = { picked: null, votes: {}, ...known, ...made };
  entries.value = known
    ? entries.value.map((e) => (e.id === made.id ? whole : e))
    : [whole, ...entries.value].slice(0, MOST);
}

export function change(id: string, part: Partial<Entry>): void {
  entries.value = entries.value.map((e) => (e.id === id ? { ...e, ...part } : e));
}

export function drop(id: string): void {
  entries.value = entries.value.filter((e) => e.id !== id);
}

export interface Branch {
  entry: Entry;
  children: Branch[];
}

/** The history as trees, newest first; children in order of creation. */
export function trees(list: Entry[]): Branch[] {
  const ids = new Set(list.map((e) => e.id));
  const branch = (e: Entry): Branch => ({
    entry: e,
    children: list.filter((c) => c.parent === e.id).sort((a, b) => a.created - b.created).map(branch),
  });
  return list
    .filter((e) => e.parent === null || !ids.has(e.parent))
    .sort((a, b) => b.created - a.created)
    .map(branch);
}
