import { signal } from "@preact/signals";
import { api, type Preset } from "./api";
import { guarded } from "./state";

const presets = signal<Preset[] | null>(null);

async function load(): Promise<void> {
  if (presets.value === null) presets.value = (await guarded(api.presets()))?.data ?? null;
}

interface Props {
  prompt: string;
  avoided: string;
  onChange: (prompt: string, avoided: string) => void;
}

/** Presets of light, mood, framing and medium that toggle phrases of the prompt. */
export function Presets({ prompt, avoided, onChange }: Props) {
  const all = presets.value ?? [];
  const groups = [...new Set(all.map((one) => one.group))];
  const flip = (one: Preset, on: boolean) => {
    if (on) onChange(without(prompt, one.prompt), without(avoided, one.negative));
    else onChange(joined(prompt, one.prompt), joined(avoided, one.negative));
  };
  return (
    <details class="more presets" onToggle={() => void load()}>
      <summary>Style presets</summary>
      <div class="body">
        {groups.map((group) => (
          <div key={group} role="group" aria-label={group}>
            <span class="quiet">{group}</span>
            <p>
              {all
                .filter((one) => one.group === group)
                .map((one) => (
                  <Chip key={one.name} one={one} on={holds(prompt, one.prompt)} onFlip={flip} />
                ))}
            </p>
          </div>
        ))}
      </div>
    </details>
  );
}

function Chip({ one, on, onFlip }: { one: Preset; on: boolean; onFlip: (one: Preset, on: boolean) => void }) {
  return (
    <button type="button" class="chip" aria-pressed={on} title={told(one)} onClick={() => onFlip(one, on)}>
      {one.name}
    </button>
  );
}

function told(one: Preset): string {
  return one.negative ? `Adds “${one.prompt}”; adds “${one.negative}” to the negative prompt` : `Adds “${one.prompt}”`;
}

function holds(text: string, phrase: string): boolean {
  return `, ${text}, `.includes(`, ${phrase}, `);
}

function joined(text: string, phrase: string): string {
  if (!phrase || holds(text, phrase)) return text;
  return text.trim() ? `${text.trim().replace(/,$/, "")}, ${phrase}` : phrase;
}

function without(text: string, phrase: string): string {
  if (!phrase || !holds(text, phrase)) return text;
  return `, ${text}, `.replace(`, ${phrase}, `, ", ").slice(2).replace(/, $/, "");
}
