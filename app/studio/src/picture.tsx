// Images of the service. With a key they are fetched, because an image URL cannot carry a header.

import { useEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { call, Problem } from "./api";
import { key } from "./key";

export interface Fetched {
  src: string | undefined;
  problem: Problem | null;
}

/** The content of a URL as an object URL, revoked when unused. null fetches nothing. */
export function useFetched(path: string | null): Fetched {
  const found = useSignal<Fetched>({ src: undefined, problem: null });
  const known = key.value;
  useEffect(() => {
    found.value = { src: undefined, problem: null };
    if (path === null) return undefined;
    const gone = new AbortController();
    let made = "";
    call(path, { signal: gone.signal })
      .then((answer) => answer.blob())
      .then((blob) => {
        if (gone.signal.aborted) return;
        made = URL.createObjectURL(blob);
        found.value = { src: made, problem: null };
      })
      .catch((error: unknown) => {
        if (error instanceof Problem) found.value = { src: undefined, problem: error };
      });
    return () => {
      gone.abort();
      URL.revokeObjectURL(made);
    };
  }, [path, known]);
  return found.value;
}

/** A URL for an image or a link. */
export function useAddress(path: string, wanted = true): string | undefined {
  const locked = key.value !== "";
  const { src } = useFetched(locked && wanted ? path : null);
  return locked ? src : path;
}

interface Props {
  path: string;
  alt: string;
  class?: string;
  lazy?: boolean;
}

/** An image of the service; a lazy one is fetched near the viewport only. */
export function Picture({ path, alt, class: name, lazy }: Props) {
  const image = useRef<HTMLImageElement>(null);
  const near = useSignal(!lazy);
  useEffect(() => {
    if (!lazy || !image.current) return undefined;
    const watch = new IntersectionObserver((seen) => {
      if (seen.some((one) => one.isIntersecting)) near.value = true;
    }, { rootMargin: "300px" });
    watch.observe(image.current);
    return () => watch.disconnect();
  }, []);
  const src = useAddress(path, near.value);
  return (
    <img ref={image} class={name} src={src} alt={alt} loading={lazy ? "lazy" : "eager"} decoding="async" draggable={false} />
  );
}
