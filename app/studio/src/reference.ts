// Pictures to be like or unlike: what is sent of them, and files made small enough to be sent with every slider.

import { Problem, type AskedReference, type Generation, type Reference } from "./api";

/** Pixels of the longer side of a reference; scorers see less. */
const SIDE = 448;
const QUALITY = 0.92;

/** A picture file as a data: URI, its longer side shrunk to so many pixels. Raises Problem for what is no picture. */
export async function small(file: Blob, side = SIDE): Promise<string> {
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Problem("This file is not a picture that the browser can read.", 0);
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

/** Whether the page still has what the service would need to see it again; uploads are not kept there. */
export function known(one: Reference): boolean {
  return one.image !== null || one.generation !== null;
}

export function askedOf(list: Reference[]): AskedReference[] {
  return list.flatMap<AskedReference>(({ image, generation, index, weight }) =>
    image !== null ? [{ image, weight }] : generation !== null && index !== null ? [{ generation, index, weight }] : [],
  );
}

const sent = new Map<string, Reference[]>();

/** Remember, until the page is left, the references that a generation was ranked with, in their order. */
export function hold(id: string, list: Reference[]): void {
  sent.set(id, list);
}

export function referencesOf(made: Generation): Reference[] {
  const held = sent.get(made.id) ?? [];
  return made.ranking.references.map((one, place) => ({ ...one, image: held[place]?.image ?? null }));
}
