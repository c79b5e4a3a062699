import { signal } from "@preact/signals";
import { type Generation } from "./api";
import { Canvas, Tools } from "./brush";
import { exported, sizeOf, type Stroke } from "./strokes";

const COLOUR = "rgb(255 0 170)";

interface Painting {
  of: string;
  strokes: Stroke[];
  size: number;
}

/** The area of a candidate that is painted to be redrawn; null while nothing is painted. */
const painting = signal<Painting | null>(null);

const name = (made: Generation, index: number): string => `${made.id}/${index}`;

/** Whether the brush is on this candidate. */
export const painted = (made: Generation, index: number): Painting | null =>
  painting.value?.of === name(made, index) ? painting.value : null;

/** The painted area of this candidate as a mask: white on black; null without one. */
export function mask(made: Generation, index: number): string | null {
  const found = painted(made, index);
  if (!found || found.strokes.length === 0) return null;
  return exported(sizeOf(made.output_size), found.strokes, "black", "white");
}

export function stop(): void {
  painting.value = null;
}

/** The canvas over a candidate's image. */
export function RedrawCanvas({ made, index }: { made: Generation; index: number }) {
  const now = painted(made, index);
  if (!now) return null;
  return (
    <Canvas
      {...sizeOf(made.output_size)}
      label="Paint the area to redraw"
      strokes={now.strokes}
      size={now.size}
      colour={COLOUR}
      onChange={(strokes) => (painting.value = { ...now, strokes })}
    />
  );
}

/** Switches the brush on and off, and sets it. */
export function RedrawTools({ made, index }: { made: Generation; index: number }) {
  const now = painted(made, index);
  const { width, height } = sizeOf(made.output_size);
  const shorter = Math.min(width, height);
  const begin = () => (painting.value = { of: name(made, index), strokes: [], size: Math.round(shorter / 5) });
  return (
    <div class="redraw">
      <button type="button" aria-pressed={now !== null} onClick={() => (now ? stop() : begin())}>
        Paint what is to be redrawn
      </button>
      {now && (
        <>
          <Tools
            strokes={now.strokes}
            size={now.size}
            most={Math.round(shorter / 2)}
            onSize={(size) => (painting.value = { ...now, size })}
            onChange={(strokes) => (painting.value = { ...now, strokes })}
          />
          <p class="quiet">Paint on the image. Everything else stays as it is.</p>
        </>
      )}
    </div>
  );
}
