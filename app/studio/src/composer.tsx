import { signal } from "@preact/signals";
import type { Asked, Negative } from "./api";
import { Negatives } from "./negatives";
import { race } from "./race";
import { generate, generator, limits } from "./state";

interface Draft {
  prompt: string;
  avoided: string;
  negatives: Negative[];
  candidates: number | null;
  n: number;
  pruning: "auto" | "off";
  steps: string;
  guidance: string;
  sampler: string;
  seed: string;
}

export const draft = signal<Draft>({
  prompt: "",
  avoided: "",
  negatives: [],
  candidates: null,
  n: 3,
  pruning: "auto",
  steps: "",
  guidance: "",
  sampler: "",
  seed: "",
});

function set(part: Partial<Draft>): void {
  draft.value = { ...draft.value, ...part };
}

function candidates(): number {
  return draft.value.candidates ?? limits.value?.default_candidates ?? 16;
}

function asked(): Asked {
  const { prompt, avoided, negatives, n, pruning, steps, guidance, sampler, seed } = draft.value;
  return {
    prompt,
    ...(avoided.trim() ? { negative_prompt: avoided } : {}),
    n_candidates: candidates(),
    n: Math.min(n, candidates()),
    ...(pruning === "off" ? { pruning } : {}),
    ...(steps ? { steps: Number(steps) } : {}),
    ...(guidance ? { guidance_scale: Number(guidance) } : {}),
    ...(sampler ? { sampler } : {}),
    ...(seed ? { seed: Number(seed) } : {}),
    ranking: { negatives: negatives.filter((one) => one.text.trim()) },
  };
}

function submit(event: Event): void {
  event.preventDefault();
  if (draft.value.prompt.trim()) void generate(asked());
}

function onKeyDown(event: KeyboardEvent): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
}

export function Composer() {
  const now = draft.value;
  return (
    <form class="composer" onSubmit={submit} onKeyDown={onKeyDown} aria-label="New race">
      <label class="field prompt">
        <span>Show</span>
        <textarea
          rows={3}
          required
          maxLength={limits.value?.prompt_chars ?? 4000}
          placeholder="a red apple on a white background"
          value={now.prompt}
          onInput={(e) => set({ prompt: e.currentTarget.value })}
        />
      </label>
      <label class="field">
        <span>Steer away from</span>
        <input
          type="text"
          placeholder="blurry, text"
          value={now.avoided}
          onInput={(e) => set({ avoided: e.currentTarget.value })}
        />
      </label>
      <Negatives
        label="Mark down for"
        list={now.negatives}
        most={limits.value?.negatives ?? 16}
        onChange={(negatives) => set({ negatives })}
      />
      <div class="pairs">
        <Count
          label="Candidates"
          value={candidates()}
          most={limits.value?.candidates ?? 64}
          onChange={(value) => set({ candidates: value })}
        />
        <Count label="Keep" value={Math.min(now.n, candidates())} most={candidates()} onChange={(n) => set({ n })} />
      </div>
      <label class="check">
        <input
          type="checkbox"
          checked={now.pruning === "auto"}
          onChange={(e) => set({ pruning: e.currentTarget.checked ? "auto" : "off" })}
        />
        Drop weak candidates on the way
      </label>
      <Details />
      <button type="submit" class="go" disabled={!now.prompt.trim() || race.value !== null}>
        {race.value ? "Racing…" : "Race"}
        <kbd aria-hidden="true">Ctrl ↵</kbd>
      </button>
    </form>
  );
}

function Count(props: { label: string; value: number; most: number; onChange: (value: number) => void }) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <input
        type="number"
        inputMode="numeric"
        min={1}
        max={props.most}
        required
        value={props.value}
        onChange={(e) => props.onChange(Math.max(1, Math.min(props.most, Math.round(e.currentTarget.valueAsNumber) || 1)))}
      />
    </label>
  );
}

function Details() {
  const now = draft.value;
  const known = generator.value;
  return (
    <details class="more">
      <summary>Sampling</summary>
      <div class="pairs">
        <Setting label="Steps" value={now.steps} hint={String(known?.steps ?? "")} min={1} max={limits.value?.steps ?? 150} step={1} onInput={(steps) => set({ steps })} />
        <Setting label="Guidance" value={now.guidance} hint={String(known?.guidance_scale ?? "")} min={0} max={100} step={0.1} onInput={(guidance) => set({ guidance })} />
        <label class="field">
          <span>Sampler</span>
          <select value={now.sampler} onChange={(e) => set({ sampler: e.currentTarget.value })}>
            <option value="">{known?.sampler ?? "default"}</option>
            {known?.samplers
              .filter((name) => name !== known.sampler)
              .map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
          </select>
        </label>
        <Setting label="Seed" value={now.seed} hint="drawn" min={0} max={4294967295} step={1} onInput={(seed) => set({ seed })} />
      </div>
    </details>
  );
}

function Setting(props: {
  label: string;
  value: string;
  hint: string;
  min: number;
  max: number;
  step: number;
  onInput: (value: string) => void;
}) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <input
        type="number"
        min={props.min}
        max={props.max}
        step={props.step}
        placeholder={props.hint}
        value={props.value}
        onInput={(e) => props.onInput(e.currentTarget.value)}
      />
    </label>
  );
}
