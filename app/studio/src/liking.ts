// Votes and the taste profile.

import { batch, signal } from "@preact/signals";
import { api, Problem, type TasteSummary } from "./api";
import { change, entries, entry, profile, voted } from "./kept";
import { comparing, focus, guarded, said, shown, weigh, weights } from "./state";

/** The summary of the profile, once it is loaded. */
export const tasted = signal<TasteSummary | null>(null);

function learnt(told: TasteSummary | null): void {
  tasted.value = told;
  voted.value = told ? told.liked + told.disliked + told.preferred : 0;
}

async function cast(ballot: object, words: string): Promise<boolean> {
  const made = shown.value;
  const told = made && (await guarded(api.votes(profile.value, { generation: made.id, ...ballot })));
  if (!told) return false;
  learnt(told);
  if (weights.value && weights.value.taste > 0) weights.value = { ...weights.value };
  said.value = words;
  return true;
}

export async function vote(index: number, liked: 1 | -1): Promise<void> {
  const made = shown.value;
  const ballot = { [liked > 0 ? "liked" : "disliked"]: [index] };
  if (!made || !(await cast(ballot, `Candidate ${index + 1} ${liked > 0 ? "liked" : "disliked"}.`))) return;
  change(made.id, { votes: { ...entry(made.id)?.votes, [index]: liked } });
}

export async function prefer(index: number, over: number): Promise<void> {
  if (!(await cast({ preferred: [[index, over]] }, `Candidate ${index + 1} preferred.`))) return;
  batch(() => {
    comparing.value = false;
    focus.value = index;
  });
}

/** Switch to this profile; one that is not among the `known` starts with the next vote. */
export async function turnTo(name: string, known: string[]): Promise<void> {
  const told = known.includes(name) ? await guarded(api.taste(name)) : null;
  batch(() => {
    if (name !== profile.value) weigh({ taste: 0 });
    profile.value = name;
    learnt(told);
  });
}

export async function unlearn(): Promise<void> {
  if (!(await guarded(api.unlearn(profile.value)))) return;
  batch(() => {
    learnt(null);
    entries.value = entries.value.map((e) => ({ ...e, votes: {} }));
    weigh({ taste: 0 });
  });
  said.value = "The taste profile is deleted.";
}

/** Export the profile as a file. */
export async function carryOut(): Promise<void> {
  const file = await guarded(api.tasteFile(profile.value));
  if (!file) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(file)], { type: "application/json" }));
  link.download = `${profile.value}.taste.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

/** Replace this profile by one from a file. */
export async function bringIn(file: File): Promise<void> {
  const told = await guarded(file.text().then((text) => api.bringTaste(profile.value, parsed(text))));
  if (!told) return;
  learnt(told);
  said.value = "The taste profile is imported.";
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Problem("This file is not an exported taste profile.", 0);
  }
}
