// Strokes of a brush in image pixels: drawing, undo, and export as an image file. No DOM state of its own.

export interface Point {
  x: number;
  y: number;
}

/** `size` is the diameter of the brush. */
export interface Stroke {
  size: number;
  colour: string;
  points: Point[];
}

export interface Size {
  width: number;
  height: number;
}

export function sizeOf(text: string): Size {
  const [width = 1, height = 1] = text.split("x").map(Number);
  return { width, height };
}

/** Draw strokes; `colour` replaces their own. */
export function paint(brush: CanvasRenderingContext2D, strokes: Stroke[], colour?: string): void {
  brush.lineCap = brush.lineJoin = "round";
  for (const { size, colour: own, points } of strokes) {
    const [first, ...rest] = points;
    if (!first) continue;
    brush.strokeStyle = colour ?? own;
    brush.lineWidth = size;
    brush.beginPath();
    brush.moveTo(first.x, first.y);
    for (const { x, y } of rest.length > 0 ? rest : [first]) brush.lineTo(x, y);
    brush.stroke();
  }
}

/** The strokes on a plain ground, as a PNG data: URI. */
export function exported({ width, height }: Size, strokes: Stroke[], ground: string, colour?: string): string {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const brush = canvas.getContext("2d") as CanvasRenderingContext2D;
  brush.fillStyle = ground;
  brush.fillRect(0, 0, width, height);
  paint(brush, strokes, colour);
  return canvas.toDataURL("image/png");
}
