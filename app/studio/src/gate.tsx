import { useSignal } from "@preact/signals";
import { key, shut } from "./key";
import { Prose } from "./prose";
import { unlock } from "./state";

/** Asks for the API key of a service that requires one. */
export function Gate({ why }: { why: string }) {
  const typed = useSignal("");
  const submit = (event: Event) => {
    event.preventDefault();
    if (typed.value.trim()) void unlock(typed.value);
  };
  return (
    <form class="gate" onSubmit={submit} aria-label="API key">
      <h1>{key.value ? "The service rejected this key." : "This service requires an API key."}</h1>
      <p role="alert">
        <Prose text={key.value ? why : "The operator creates keys with `frontrunner keys add`."} />
      </p>
      <div class="row">
        <label class="field">
          <span>API key</span>
          <input
            type="password"
            autocomplete="off"
            spellcheck={false}
            autofocus
            value={typed.value}
            onInput={(e) => (typed.value = e.currentTarget.value)}
          />
        </label>
        <button type="submit" class="go" disabled={!typed.value.trim()}>
          Enter
        </button>
      </div>
      <p class="quiet">The key is stored until you close this tab, and is sent to this service only.</p>
    </form>
  );
}

/** Shows that a key is in use, and removes it. */
export function InUse() {
  if (!key.value || shut.value !== null) return null;
  return (
    <p class="quiet inuse">
      An API key is in use.{" "}
      <button type="button" class="add" onClick={() => void unlock("")}>
        Remove it
      </button>
    </p>
  );
}
