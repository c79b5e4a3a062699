// Animation of reordered lists: elements with a data-key glide from their old to their new place.

import { useLayoutEffect, useRef } from "preact/hooks";

const GLIDE_MS = 420;

/** Maximum animated elements; more would be blurred and slow. */
const MOST = 96;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

interface Place {
  x: number;
  y: number;
}

/** A ref for the list. `order` changes with the list's order. Places are layout places, not animated ones. */
export function useGlide<T extends HTMLElement>(order: string) {
  const list = useRef<T>(null);
  const places = useRef(new Map<string, Place>());
  const gliding = useRef(new WeakMap<HTMLElement, Animation>());
  useLayoutEffect(() => {
    const before = places.current;
    places.current = new Map();
    const items = list.current?.querySelectorAll<HTMLElement>("[data-key]") ?? [];
    if (items.length > MOST) return;
    for (const item of items) {
      const key = item.dataset.key ?? "";
      const is = { x: item.offsetLeft, y: item.offsetTop };
      const was = before.get(key);
      places.current.set(key, is);
      if (!was || calm.matches || (was.x === is.x && was.y === is.y)) continue;
      gliding.current.get(item)?.cancel();
      const from = `translate(${was.x - is.x}px, ${was.y - is.y}px)`;
      const frames = [{ transform: from }, { transform: "none" }];
      gliding.current.set(item, item.animate(frames, { duration: GLIDE_MS, easing: "cubic-bezier(.2,.8,.2,1)" }));
    }
  }, [order]);
  return list;
}
