import { Quality, Safety, usualSteps, Vetoes, Wordings } from "./choices";
import { asked, candidates, draft, references, set, start } from "./draft";
import { Negatives } from "./negatives";
import { Presets } from "./presets";
import { race } from "./race";
import { small } from "./reference";
import { References } from "./references";
import { controls, Sketching } from "./sketch";
import { generate, generator, limits, model, models, tell, wanted } from "./state";

function submit(event: Event): void {
  event.preventDefault();
  if (draft.value.prompt.trim()) {
    const control = controls();
    void generate({ ...asked(), ...(control.length > 0 ? { control } : {}) }, references.value);
  }
}

function onKeyDown(event: KeyboardEvent): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
}

export function Composer() {
  const now = draft.value;
  return (
    <form class="composer" onSubmit={submit} onKeyDown={onKeyDown} aria-label="New generation">
      <label class="field prompt">
        <span>Prompt</span>
        <textarea
          rows={3}
          required
          maxLength={limits.value?.prompt_chars ?? 4000}
          placeholder="a red apple on a white background"
          value={now.prompt}
          onInput={(e) => set({ prompt: e.currentTarget.value })}
        />
      </label>
      <Presets prompt={now.prompt} avoided={now.avoided} onChange={(prompt, avoided) => set({ prompt, avoided })} />
      <label class="field">
        <span>Negative prompt</span>
        <input
          type="text"
          placeholder="blurry, text"
          value={now.avoided}
          onInput={(e) => set({ avoided: e.currentTarget.value })}
        />
      </label>
      {models.value.length > 1 && <Model />}
      <div class="extras">
        <Negatives
          label="Negatives"
          list={now.negatives}
          most={limits.value?.negatives ?? 16}
          onChange={(negatives) => set({ negatives })}
        />
        <References label="Reference images" list={references.value} onChange={(list) => (references.value = list)} />
        <Beginning />
        <Sketching />
      </div>
      <Wordings />
      <Quality />
      <div class="pairs">
        <Count
          label="Candidates"
          value={candidates()}
          most={limits.value?.candidates ?? 64}
          onChange={(value) => set({ candidates: value })}
        />
        <Count label="Return" value={Math.min(now.n, candidates())} most={candidates()} onChange={(n) => set({ n })} />
      </div>
      <label class="check">
        <input
          type="checkbox"
          checked={now.pruning === "auto"}
          onChange={(e) => set({ pruning: e.currentTarget.checked ? "auto" : "off" })}
        />
        Prune weak candidates
      </label>
      <Vetoes />
      <Safety />
      <Details />
      <button type="submit" class="go" disabled={!now.prompt.trim() || race.value !== null}>
        {race.value ? "Generating…" : "Generate"}
        <kbd aria-hidden="true">Ctrl ↵</kbd>
      </button>
    </form>
  );
}

/** Which of several models makes the images. Samplers are those of a model. */
function Model() {
  const choose = (id: string) => {
    wanted.value = id;
    set({ sampler: "" });
  };
  return (
    <label class="field">
      <span>Model</span>
      <select value={model.value} onChange={(e) => choose(e.currentTarget.value)}>
        {models.value.map((one) => (
          <option key={one.id} value={one.id}>
            {one.serving?.state === "waiting" ? `${one.id} (loads first)` : one.id}
          </option>
        ))}
      </select>
    </label>
  );
}

/** The start image of the candidates, instead of noise. */
function Beginning() {
  const take = async (file: File | undefined) => {
    try {
      const known = generator.value;
      if (file) start.value = await small(file, known ? 4 * Math.max(known.width, known.height) : undefined);
    } catch (error) {
      tell(error);
    }
  };
  if (start.value === null) {
    return (
      <fieldset>
        <legend class="unseen">Start image</legend>
        <label class="add file">
          Start from an image or a sketch
          <input type="file" class="unseen" accept="image/*" onChange={(e) => void take(e.currentTarget.files?.[0])} />
        </label>
      </fieldset>
    );
  }
  const { strength } = draft.value;
  return (
    <fieldset>
      <legend>Start image</legend>
      <div class="reference">
        <img src={start.value} alt="Start image" />
        <label class="slider">
          <span>
            Strength <b>{Math.round(100 * strength)} %</b>
          </span>
          <input type="range" min={0} max={1} step={0.05} value={strength} onInput={(e) => set({ strength: e.currentTarget.valueAsNumber })} />
        </label>
        <button type="button" class="plain" aria-label="Remove the start image" onClick={() => (start.value = null)}>
          ×
        </button>
      </div>
    </fieldset>
  );
}

function Count(props: { label: string; value: number; most: number; onChange: (value: number) => void }) {
  // Stored while typing; otherwise a re-render would restore the old number.
  const typed = (value: number) => {
    if (Number.isInteger(value) && value >= 1 && value <= props.most) props.onChange(value);
  };
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
        onInput={(e) => typed(e.currentTarget.valueAsNumber)}
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
        <Setting label="Steps" value={now.steps} hint={usualSteps()} min={1} max={limits.value?.steps ?? 150} step={1} onInput={(steps) => set({ steps })} />
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
        <Setting label="Seed" value={now.seed} hint="random" min={0} max={Number.MAX_SAFE_INTEGER} step={1} onInput={(seed) => set({ seed })} />
        <label class="field">
          <span>Metadata in files</span>
          <select value={now.provenance} onChange={(e) => set({ provenance: e.currentTarget.value as typeof now.provenance })}>
            <option value="">server's default</option>
            <option value="none">none</option>
            <option value="metadata">prompt and settings</option>
            <option value="c2pa">signed manifest (C2PA)</option>
          </select>
        </label>
      </div>
      {known?.steering && <Steering />}
    </details>
  );
}

function Steering() {
  const { steering } = draft.value;
  return (
    <label class="field">
      <span>
        Steer by the score <output>{steering === 0 ? "off" : steering.toFixed(2)}</output>
      </span>
      <input type="range" min={0} max={0.1} step={0.01} value={steering} onInput={(e) => set({ steering: e.currentTarget.valueAsNumber })} />
      <small>The score rises by construction. It is no proof of quality.</small>
    </label>
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
