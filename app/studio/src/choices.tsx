// Choices of the composer beside sampling: quality, other wordings, and what is excluded.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Quality as Level, Safety as Mode } from "./api";
import { draft, modes, set } from "./draft";
import { generator, limits, safety } from "./state";

const LEVELS: [Level, string][] = [
  ["draft", "Draft: fewer candidates, faster"],
  ["standard", "Standard"],
  ["best", "Best: more candidates"],
];
const FLAGS: Record<string, string> = {
  artefact: "Exclude images with artefacts",
  typographic: "Exclude images that show words of the prompt",
};
const MODES: Record<Mode, string> = {
  off: "Off",
  flag: "Flag images",
  veto: "Exclude flagged images",
};
const MOST_WORDINGS = 16;

/** One knob over candidates and steps. */
export function Quality() {
  const now = draft.value;
  return (
    <label class="field">
      <span>Quality</span>
      <select
        value={now.quality}
        onChange={(e) => set({ quality: e.currentTarget.value as typeof now.quality, candidates: null, steps: "" })}
      >
        <option value="">server's default</option>
        {LEVELS.map(([level, label]) => (
          <option key={level} value={level}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}

/** Steps of a request that names none. */
export function usualSteps(): string {
  const { quality } = draft.value;
  const known = generator.value;
  return String((quality ? known?.quality[quality].steps : known?.steps) ?? "");
}

/** Other texts to sample from; the prompt ranks all of them. */
export function Wordings() {
  const now = draft.value;
  const own = now.variants.trim() !== "";
  const filled = own || now.wordings > 0;
  const open = useSignal(filled);
  useEffect(() => {
    if (filled) open.value = true;
  }, [filled]);
  return (
    <details class="more" open={open.value} onToggle={(e) => (open.value = e.currentTarget.open)}>
      <summary>Variants of the prompt</summary>
      <div class="words">
        <label class="field">
          <span>Wordings that the server makes</span>
          <select
            value={own ? 0 : now.wordings}
            disabled={own}
            onChange={(e) => set({ wordings: Number(e.currentTarget.value) })}
          >
            <option value={0}>none</option>
            {Array.from({ length: MOST_WORDINGS - 1 }, (_, place) => (
              <option key={place} value={place + 2}>
                {place + 2}
              </option>
            ))}
          </select>
        </label>
        <label class="field">
          <span>Your own variants, one a line</span>
          <textarea
            rows={3}
            placeholder={"an apple, red\na glossy red apple"}
            value={now.variants}
            onInput={(e) => set({ variants: e.currentTarget.value })}
          />
          <small>Candidates are sampled from them in turn. The prompt ranks all candidates.</small>
        </label>
      </div>
    </details>
  );
}

/** Flags whose images are not returned. */
export function Vetoes() {
  const { veto } = draft.value;
  const known = limits.value?.installed_guards ?? [];
  return (
    <>
      {known.map((name) => (
        <label class="check" key={name}>
          <input
            type="checkbox"
            checked={veto.includes(name)}
            onChange={(e) =>
              set({ veto: e.currentTarget.checked ? [...veto, name] : veto.filter((other) => other !== name) })
            }
          />
          {FLAGS[name] ?? `Exclude images with the flag ${name}`}
        </label>
      ))}
    </>
  );
}

/** What the safety classifier does; nothing to choose where the server requires a veto or has no classifier. */
export function Safety() {
  const known = safety.value;
  if (known === null || modes().length < 2) return null;
  return (
    <label class="field">
      <span>Safety, by {known.classifier}</span>
      <select
        value={draft.value.safety}
        onChange={(e) => set({ safety: e.currentTarget.value as typeof draft.value.safety })}
      >
        <option value="">server's default: {MODES[known.default].toLowerCase()}</option>
        {modes().map((mode) => (
          <option key={mode} value={mode}>
            {MODES[mode]}
          </option>
        ))}
      </select>
    </label>
  );
}
