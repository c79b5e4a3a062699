// Order that changes is seen to change: elements with a data-key glide from where they were to where they are.

import { useLayoutEffect, useRef } from "preact/hooks";

const GLIDE_MS = 420;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** A ref for the list. `order` changes when the list's order may have. */
export function useGlide<T extends HTMLElement>(order: string) {
  const list = useRef<T>(null);
  const places = useRef(new Map<string, DOMRect>());
  useLayoutEffect(() => {
    const before = places.current;
    const now = new Map<string, DOMRect>();
    const items = [...(list.current?.querySelectorAll<HTMLElement>("[data-key]") ?? [])];
    const scrolled = { x: scrollX, y: scrollY };
    for (const item of items) {
      const { x, y, width, height } = item.getBoundingClientRect();
      now.set(item.dataset.key ?? "", new DOMRect(x + scrolled.x, y + scrolled.y, width, height));
    }
    places.current = now;
    if (calm.matches) return;
    for (const item of items) {
      const was = before.get(item.dataset.key ?? "");
      const is = now.get(item.dataset.key ?? "");
      if (!was || !is || (was.x === is.x && was.y === is.y)) continue;
      const from = `translate(${was.x - is.x}px, ${was.y - is.y}px)`;
      item.animate([{ transform: from }, { transform: "none" }], { duration: GLIDE_MS, easing: "cubic-bezier(.2,.8,.2,1)" });
    }
  }, [order]);
  return list;
}
