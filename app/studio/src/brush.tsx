import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { paint, type Point, type Size, type Stroke } from "./strokes";

const STEP = 1 / 32;

interface Props extends Size {
  label: string;
  strokes: Stroke[];
  size: number;
  colour: string;
  onChange: (strokes: Stroke[]) => void;
}

/**
 * A canvas to paint on, by mouse, pen, touch, or keyboard: arrow keys move the brush, Space puts it down or lifts it,
 * Ctrl+Z undoes.
 */
export function Canvas({ width, height, label, strokes, size, colour, onChange }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const open = useRef<Stroke | null>(null);
  const cursor = useSignal<Point | null>(null);
  const down = useSignal(false);
  const place = cursor.value;
  useEffect(() => {
    const brush = canvas.current?.getContext("2d");
    if (!brush) return;
    brush.clearRect(0, 0, width, height);
    paint(brush, strokes);
    if (place) ring(brush, place, size, down.value);
  }, [strokes, width, height, place, size, down.value]);

  const at = (event: PointerEvent): Point => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height); // the image may leave room at two sides
    return {
      x: (event.clientX - box.left - (box.width - width * scale) / 2) / scale,
      y: (event.clientY - box.top - (box.height - height * scale) / 2) / scale,
    };
  };
  const add = (point: Point, fresh: boolean) => {
    const last = open.current;
    const stroke = fresh || !last ? { size, colour, points: [point] } : { ...last, points: [...last.points, point] };
    const before = fresh || !last ? strokes : strokes.slice(0, -1);
    open.current = stroke;
    onChange([...before, stroke]);
  };
  const end = () => {
    open.current = null;
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      lift();
      onChange(strokes.slice(0, -1));
      return;
    }
    const move = MOVES[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const here = cursor.value ?? { x: width / 2, y: height / 2 };
    const next = move ? moved(here, move, { width, height }) : here;
    cursor.value = next;
    if (event.key === " ") {
      if (down.value) lift();
      else {
        down.value = true;
        add(next, true);
      }
    } else if (down.value) add(next, false);
  };
  const lift = () => {
    down.value = false;
    end();
  };
  return (
    <canvas
      ref={canvas}
      class="canvas"
      width={width}
      height={height}
      tabIndex={0}
      role="application"
      aria-label={`${label}. Arrow keys move the brush, Space puts it down or lifts it, Control Z undoes.`}
      onKeyDown={onKeyDown}
      onBlur={() => {
        cursor.value = null;
        lift();
      }}
      onPointerDown={(event) => {
        if (event.button !== 0) return;
        event.currentTarget.setPointerCapture(event.pointerId);
        add(at(event), true);
      }}
      onPointerMove={(event) => {
        if (open.current && event.currentTarget.hasPointerCapture(event.pointerId)) add(at(event), false);
      }}
      onPointerUp={end}
      onPointerCancel={end}
    />
  );
}

const MOVES: Record<string, [number, number]> = {
  ArrowLeft: [-STEP, 0],
  ArrowRight: [STEP, 0],
  ArrowUp: [0, -STEP],
  ArrowDown: [0, STEP],
};

function moved({ x, y }: Point, [dx, dy]: [number, number], { width, height }: Size): Point {
  const within = (value: number, most: number) => Math.max(0, Math.min(most, value));
  return { x: within(x + dx * width, width), y: within(y + dy * height, height) };
}

/** Where the keyboard's brush is. */
function ring(brush: CanvasRenderingContext2D, { x, y }: Point, size: number, down: boolean): void {
  for (const [colour, line] of [["white", 3], ["black", 1]] as const) {
    brush.strokeStyle = colour;
    brush.lineWidth = Math.max(0.5, (line * size) / 24);
    brush.beginPath();
    brush.arc(x, y, size / (down ? 3 : 2), 0, 2 * Math.PI);
    brush.stroke();
  }
}

interface ToolProps {
  strokes: Stroke[];
  size: number;
  most: number;
  onSize: (size: number) => void;
  onChange: (strokes: Stroke[]) => void;
}

/** Brush size, undo and clear. */
export function Tools({ strokes, size, most, onSize, onChange }: ToolProps) {
  return (
    <div class="tools">
      <label class="slider">
        <span>
          Brush size <b>{Math.round(size)} px</b>
        </span>
        <input type="range" min={1} max={most} step={1} value={size} onInput={(e) => onSize(e.currentTarget.valueAsNumber)} />
      </label>
      <button type="button" disabled={strokes.length === 0} onClick={() => onChange(strokes.slice(0, -1))}>
        Undo
      </button>
      <button type="button" disabled={strokes.length === 0} onClick={() => onChange([])}>
        Clear
      </button>
    </div>
  );
}
