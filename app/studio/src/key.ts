// The API key of the service. It is stored as long as this tab and is only sent in the header.

import { effect, signal } from "@preact/signals";

const NAME = "frontrunner.key";

export const key = signal(stored());

/** The service's message when it rejects the key; null otherwise. */
export const shut = signal<string | null>(null);

function stored(): string {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

effect(() => {
  try {
    if (key.value) sessionStorage.setItem(NAME, key.value);
    else sessionStorage.removeItem(NAME);
  } catch {
    // Denied: the key is kept as long as the page.
  }
});

export function withKey(init: RequestInit = {}): RequestInit {
  if (!key.value) return init;
  const headers = new Headers(init.headers);
  headers.set("authorization", `Bearer ${encodeURI(key.value)}`); // headers allow Latin-1 only
  return { ...init, headers };
}
