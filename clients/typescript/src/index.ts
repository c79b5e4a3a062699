/** Client of a Frontrunner service: every route with its types, events that survive broken connections, webhooks. */

import createFetchClient, { type Client as FetchClient } from "openapi-fetch";
import { Webhook } from "standardwebhooks";

import { ApiError, type Generation, GenerationFailed } from "./errors.js";
import { backoff, type Fetch, pause, retrying } from "./retries.js";
import type { components, paths } from "./schema.js";
import { messages } from "./sse.js";

export type { components, paths } from "./schema.js";
export { ApiError, type Generation, GenerationFailed, type Problem } from "./errors.js";

export type GenerationRequest = components["schemas"]["GenerationRequest"];
export type RefineRequest = components["schemas"]["RefineRequest"];

/** One event of a generation, with its number in the log. A final event holds the generation. */
export interface Event {
  kind: string;
  data: Record<string, unknown>;
  id: number;
  generation?: Generation;
}

export interface Options {
  baseUrl?: string;
  key?: string;
  maxRetries?: number;
  fetch?: Fetch;
}

export interface WaitOptions {
  signal?: AbortSignal;
  idempotencyKey?: string;
  onEvent?: (event: Event) => void;
}

const FINAL = new Set(["succeeded", "failed", "cancelled"]);

/** A client of one service; `api` has every route, and throws ApiError for error responses. */
export class Frontrunner {
  readonly api: FetchClient<paths>;
  readonly #baseUrl: string;
  readonly #headers: Record<string, string>;
  readonly #fetch: Fetch;
  readonly #maxRetries: number;

  constructor({ baseUrl = "http://127.0.0.1:8000", key, maxRetries = 2, fetch = globalThis.fetch }: Options = {}) {
    this.#baseUrl = baseUrl.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#headers = key === undefined ? {} : { authorization: `Bearer ${key}` };
    this.#fetch = retrying(fetch, maxRetries);
    this.#maxRetries = maxRetries;
    this.api = createFetchClient<paths>({ baseUrl: this.#baseUrl, headers: this.#headers, fetch: this.#fetch });
    this.api.use({
      onResponse: async ({ response }) => {
        if (!response.ok) throw await ApiError.from(response);
      },
    });
  }

  /** Sample candidates, and wait for the ranked result. Aborting cancels the generation. */
  generate(body: GenerationRequest, options: WaitOptions = {}): Promise<Generation> {
    return result(this.stream(body, options), options.onEvent);
  }

  /** Sample new candidates from one of a generation, as `generate` does. */
  refine(id: string, body: RefineRequest, options: WaitOptions = {}): Promise<Generation> {
    return result(this.#events(this.#post(`/v1/generations/${encodeURIComponent(id)}/refine`, body, options), options), options.onEvent);
  }

  /** Sample candidates; the events. Leaving the loop early cancels the generation. */
  stream(body: GenerationRequest, options: WaitOptions = {}): AsyncGenerator<Event> {
    return this.#events(this.#post("/v1/generations", body, options), options);
  }

  /** The events of a generation after number `after`, until it ends. */
  follow(id: string, after = 0, options: WaitOptions = {}): AsyncGenerator<Event> {
    return this.#events(undefined, options, id, after);
  }

  /** The result of a generation that runs in the background, when it ends. */
  wait(id: string, options: WaitOptions = {}): Promise<Generation> {
    return result(this.follow(id, 0, options), options.onEvent);
  }

  /** The image file of any candidate. */
  async image(id: string, index: number, format?: "png" | "webp" | "jpeg"): Promise<Uint8Array> {
    const query = format === undefined ? {} : { format };
    const { data } = await this.api.GET("/v1/generations/{generation_id}/images/{index}", {
      params: { path: { generation_id: id, index }, query },
      parseAs: "arrayBuffer",
    });
    return new Uint8Array(data as unknown as ArrayBuffer);
  }

  #post(path: string, body: unknown, options: WaitOptions): Request {
    const key = options.idempotencyKey ?? crypto.randomUUID();
    const headers = { ...this.#headers, "content-type": "application/json", "idempotency-key": key };
    return new Request(this.#baseUrl + path, {
      method: "POST",
      headers: { ...headers, accept: "text/event-stream" },
      body: JSON.stringify(body),
      signal: options.signal ?? null,
    });
  }

  /** New events of a log over as many connections as it takes; `start` creates the generation. */
  async *#events(start: Request | undefined, { signal }: WaitOptions, id = "", after = 0): AsyncGenerator<Event> {
    let failures = 0;
    let ended = false;
    try {
      while (!ended) {
        const before = after;
        const request = start !== undefined && id === "" ? start.clone() : this.#rest(id, after, signal);
        const response = await this.#fetch(request);
        if (!response.ok) throw await ApiError.from(response);
        if (response.status === 204 || response.body === null) return;
        id = idIn(response.headers.get("location")) ?? id;
        try {
          for await (const message of messages(response.body)) {
            const data = JSON.parse(message.data) as Record<string, unknown>;
            if (message.event === "error" && interrupted(data)) break;
            const event: Event = { kind: message.event, data, id: Number(message.id) };
            if (event.id <= after) continue;
            after = event.id;
            ended = FINAL.has(event.kind);
            if (ended) event.generation = data as unknown as Generation;
            yield event;
          }
        } catch (error) {
          if (error instanceof ApiError || signal?.aborted || id === "") throw error;
        }
        failures = after > before ? 0 : failures + 1;
        if (!ended && failures > this.#maxRetries) throw new Error("the event stream broke: read the generation");
        if (!ended) await pause(backoff(failures), signal);
      }
    } finally {
      if (!ended && start !== undefined && id !== "") await this.#cancel(id);
    }
  }

  #rest(id: string, after: number, signal?: AbortSignal): Request {
    const headers = { ...this.#headers, accept: "text/event-stream", "last-event-id": String(after) };
    const url = `${this.#baseUrl}/v1/generations/${encodeURIComponent(id)}/events`;
    return new Request(url, { headers, signal: signal ?? null });
  }

  async #cancel(id: string): Promise<void> {
    const path = { generation_id: id };
    await this.api.DELETE("/v1/generations/{generation_id}", { params: { path } }).catch(() => undefined);
  }
}

/** The event of a webhook. `body` is the raw request body. Throws when the signature or the time is wrong. */
export function verifyWebhook(body: string, headers: Record<string, string>, secret: string): unknown {
  const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
  return new Webhook(secret).verify(body, lower);
}

/** Whether an `error` event only ends this connection; throws any other. */
function interrupted(data: Record<string, unknown>): boolean {
  const error = data["error"] as components["schemas"]["ErrorMember"];
  if (error.type === "overloaded_error") return true;
  throw new ApiError(error.type === "authentication_error" ? 401 : 500, error.code, error.message);
}

function idIn(location: string | null): string | undefined {
  return /(gen_[^/?]+)\/?(?:\?.*)?$/.exec(location ?? "")?.[1];
}

async function result(events: AsyncGenerator<Event>, onEvent?: (event: Event) => void): Promise<Generation> {
  let last: Event | undefined;
  for await (const event of events) {
    onEvent?.(event);
    last = event;
  }
  if (last?.generation === undefined) throw new Error("the event stream ended before the result: read the generation");
  if (last.generation.status !== "succeeded") throw new GenerationFailed(last.generation);
  return last.generation;
}
