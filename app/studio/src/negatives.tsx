import type { Negative } from "./api";

interface Props {
  label: string;
  list: Negative[];
  most: number;
  onChange: (list: Negative[]) => void;
}

/** Negatives: texts with weights. */
export function Negatives({ label, list, most, onChange }: Props) {
  const put = (place: number, part: Partial<Negative>) => {
    onChange(list.map((one, at) => (at === place ? { ...one, ...part } : one)));
  };
  return (
    <fieldset class="negatives">
      <legend class={list.length === 0 ? "unseen" : ""}>{label}</legend>
      {list.map((one, place) => (
        <div class="negative" key={place}>
          <input
            type="text"
            aria-label={`Negative ${place + 1}`}
            value={one.text}
            onInput={(e) => put(place, { text: e.currentTarget.value })}
          />
          <input
            type="number"
            aria-label={`Weight of negative ${place + 1}`}
            title="Weight relative to the other negatives"
            min={0.1}
            max={100}
            step={0.1}
            value={one.weight}
            onChange={(e) => put(place, { weight: Math.min(100, Math.max(0.1, e.currentTarget.valueAsNumber || 1)) })}
          />
          <button
            type="button"
            class="plain"
            aria-label={`Remove negative ${place + 1}`}
            onClick={() => onChange(list.filter((_, at) => at !== place))}
          >
            ×
          </button>
        </div>
      ))}
      {list.length < most && (
        <button type="button" class="add" onClick={() => onChange([...list, { text: "", weight: 1 }])}>
          Add a negative
        </button>
      )}
    </fieldset>
  );
}
