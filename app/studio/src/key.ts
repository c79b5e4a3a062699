// The API key of services that want one. It lives as long as this tab, and goes nowhere but into the header.

import { effect, signal } from "@preact/signals";

const NAME = "frontrunner.key";

export const key = signal(sessionStorage.getItem(NAME) ?? "");

/** Why the service let nobody in, in its words; null while it does. */
export const shut = signal<string | null>(null);

effect(() => {
  if (key.value) sessionStorage.setItem(NAME, key.value);
  else sessionStorage.removeItem(NAME);
});

export function withKey(init: RequestInit = {}): RequestInit {
  if (!key.value) return init;
  const headers = new Headers(init.headers);
  headers.set("authorization", `Bearer ${key.value}`);
  return { ...init, headers };
}
