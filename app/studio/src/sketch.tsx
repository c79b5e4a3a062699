import { computed, signal, useSignal } from "@preact/signals";
import { type AskedControl } from "./api";
import { Canvas, Tools } from "./brush";
import { start } from "./draft";
import { generator } from "./state";
import { exported, type Size, type Stroke } from "./strokes";

const KINDS = ["sketch", "scribble"];

/** The model's control that follows sketches, if it has one. */
export const kind = computed(() => generator.value?.controls.find((one) => KINDS.includes(one)) ?? null);

interface Sketch {
  image: string;
  weight: number;
}

/** The sketch that the next generation follows as a control. */
export const sketch = signal<Sketch | null>(null);

export function controls(): AskedControl[] {
  return sketch.value && kind.value ? [{ kind: kind.value, ...sketch.value }] : [];
}

/** A sketch for the next generation: a control where the model has one, else the start image. */
export function Sketching() {
  const open = useSignal(false);
  const strokes = useSignal<Stroke[]>([]);
  const colour = useSignal("#000000");
  const size: Size = { width: generator.value?.width ?? 64, height: generator.value?.height ?? 64 };
  const shorter = Math.min(size.width, size.height);
  const thickness = useSignal(Math.max(1, Math.round(shorter / 24)));
  const control = kind.value;
  const use = () => {
    if (control) sketch.value = { image: exported(size, strokes.value, "black", "white"), weight: 1 };
    else start.value = exported(size, strokes.value, "white");
    open.value = false;
  };
  if (sketch.value && control) return <Used now={sketch.value} />;
  if (!open.value) {
    return (
      <button type="button" class="add" disabled={start.value !== null} onClick={() => (open.value = true)}>
        Draw a sketch
      </button>
    );
  }
  return (
    <fieldset class="sketch">
      <legend>Sketch</legend>
      <p class="quiet">
        {control
          ? "The model has a control for sketches: the composition follows the lines, in any colour."
          : "The model has no control for sketches: the sketch becomes the start image, with its colours."}
      </p>
      <Canvas
        {...size}
        label="Sketch"
        strokes={strokes.value}
        size={thickness.value}
        colour={control ? "#000000" : colour.value}
        onChange={(next) => (strokes.value = next)}
      />
      {!control && (
        <label class="check">
          <input type="color" value={colour.value} onInput={(e) => (colour.value = e.currentTarget.value)} /> Colour
        </label>
      )}
      <Tools
        strokes={strokes.value}
        size={thickness.value}
        most={Math.max(2, Math.round(shorter / 3))}
        onSize={(next) => (thickness.value = next)}
        onChange={(next) => (strokes.value = next)}
      />
      <div class="tools">
        <button type="button" disabled={strokes.value.length === 0} onClick={use}>
          Use the sketch
        </button>
        <button type="button" onClick={() => (open.value = false)}>
          Cancel
        </button>
      </div>
    </fieldset>
  );
}

function Used({ now }: { now: Sketch }) {
  return (
    <fieldset>
      <legend>Sketch</legend>
      <div class="reference">
        <img src={now.image} alt="Sketch" />
        <label class="slider">
          <span>
            Weight <b>{now.weight.toFixed(2)}</b>
          </span>
          <input
            type="range"
            min={0}
            max={2}
            step={0.05}
            value={now.weight}
            onInput={(e) => (sketch.value = { ...now, weight: e.currentTarget.valueAsNumber })}
          />
        </label>
        <button type="button" class="plain" aria-label="Remove the sketch" onClick={() => (sketch.value = null)}>
          ×
        </button>
      </div>
    </fieldset>
  );
}
