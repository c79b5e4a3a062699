// The API key of services that want one. It lives as long as this tab, and goes nowhere but into the header.

import { effect, signal } from "@preact/signals";

const NAME = "frontrunner.key";

export const key = signal(stored());

/** Why the service let nobody in, in its words; null while it does. */
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
    // Forbidden: the key is kept as long as the page.
  }
});

export function withKey(init: RequestInit = {}): RequestInit {
  if (!key.value) return init;
  const headers = new Headers(init.headers);
  headers.set("authorization", `Bearer ${encodeURI(key.value)}`); // a header takes no letters beyond Latin-1
  return { ...init, headers };
}
