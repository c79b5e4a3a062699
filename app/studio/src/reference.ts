// Reference images: their form in requests, and files shrunk for repeated re-ranking.

import { Problem, type AskedReference, type Generation, type Reference } from "./api";

/** Pixels of the longer side of a reference; scorers use fewer. */
const SIDE = 448;
const QUALITY = 0.92;

/** An image file as a data: URI, its longer side at most `side` pixels. Throws Problem for an unreadable file. */
export async function small(file: Blob, side = SIDE): Promise<string> {
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Problem("The browser cannot read this file as an image. Choose a PNG, JPEG or WebP file.", 0);
  }
  const scale = Math.min(1, side / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const brush = canvas.getContext("2d") as CanvasRenderingContext2D;
  brush.fillStyle = "white";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.imageSmoothingQuality = "high";
  brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  return canvas.toDataURL("image/jpeg", QUALITY);
}

/** Whether the page can send the reference again; the service does not store uploads. */
export function known(one: Reference): boolean {
  return one.image !== null || one.generation !== null;
}

export function askedOf(list: Reference[]): AskedReference[] {
  return list.flatMap<AskedReference>(({ image, generation, index, weight }) =>
    image !== null ? [{ image, weight }] : generation !== null && index !== null ? [{ generation, index, weight }] : [],
  );
}

const sent = new Map<string, Reference[]>();

/** Remember the references of a generation, in order, until the page is closed. */
export function hold(id: string, list: Reference[]): void {
  sent.set(id, list);
}

export function referencesOf(made: Generation): Reference[] {
  const held = sent.get(made.id) ?? [];
  return made.ranking.references.map((one, place) => ({ ...one, image: held[place]?.image ?? null }));
}
