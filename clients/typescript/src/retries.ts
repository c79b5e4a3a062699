/** Repeats of requests that had no effect, or whose repeat has none. */

export type Fetch = (request: Request) => Promise<Response>;

const MAX_WAIT_SECONDS = 120;
const SAFE = new Set(["GET", "HEAD", "PUT", "DELETE"]);

/** `fetch` with up to `maxRetries` repeats, after the interval in `Retry-After` where there is one. */
export function retrying(fetch: Fetch, maxRetries: number): Fetch {
  return async (request) => {
    const idempotent = SAFE.has(request.method) || request.headers.has("idempotency-key");
    for (let made = 0; ; made++) {
      let response: Response | undefined;
      try {
        response = await fetch(request.clone());
      } catch (error) {
        if (made >= maxRetries || !idempotent || request.signal.aborted) throw error;
      }
      const wait = response === undefined ? backoff(made) : delay(response, idempotent, made);
      if (response !== undefined && (wait === undefined || made >= maxRetries)) return response;
      await response?.body?.cancel();
      await pause(wait ?? 0, request.signal);
    }
  };
}

/** Seconds before repeat `made` + 1. */
export function backoff(made: number): number {
  return Math.min(8, 0.25 * 2 ** made) * (1 - Math.random() / 4);
}

/** Wait; rejects when the signal aborts. */
export function pause(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Seconds to wait before a repeat; undefined if the response stands. 503 and 429 say that nothing was accepted. */
function delay(response: Response, idempotent: boolean, made: number): number | undefined {
  if (response.headers.get("x-should-retry") === "false") return undefined;
  const { status } = response;
  if (status !== 429 && status !== 503 && !(idempotent && [408, 502, 504].includes(status))) return undefined;
  const advised = Number(response.headers.get("retry-after") ?? Number.NaN);
  if (!Number.isFinite(advised)) return backoff(made);
  return advised <= MAX_WAIT_SECONDS ? advised : undefined;
}
