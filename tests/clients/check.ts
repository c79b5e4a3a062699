/** Calls of the TypeScript client against a service at argv[2]; prints one line for each check that held. */

import assert from "node:assert/strict";
import { ApiError, type Event, Frontrunner, GenerationFailed, verifyWebhook } from "frontrunner-client";

const baseUrl = process.argv[2] ?? "";
const small = { prompt: "a red\u2028apple", n_candidates: 3, steps: 4, seed: 7 };

/** A fetch that breaks the first streams after `bytes` bytes, and notes what is sent. */
function breaking(breaks: number, bytes: number): { sent: Request[]; fetch: (r: Request) => Promise<Response> } {
  const sent: Request[] = [];
  const fetch = async (request: Request): Promise<Response> => {
    sent.push(request.clone());
    const response = await globalThis.fetch(request);
    if (response.body === null || breaks-- <= 0) return response;
    let left = bytes;
    const cut = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        controller.enqueue(chunk.subarray(0, left));
        left -= chunk.length;
        if (left <= 0) controller.error(new TypeError("the connection was reset"));
      },
    });
    return new Response(response.body.pipeThrough(cut), response);
  };
  return { sent, fetch };
}

async function resumed(): Promise<void> {
  const wire = breaking(1, 300);
  const events: Event[] = [];
  for await (const event of new Frontrunner({ baseUrl, fetch: wire.fetch }).stream(small)) events.push(event);
  assert.deepEqual(events.map((event) => event.id), events.map((_, place) => place + 1));
  assert.equal(events.at(-1)?.generation?.prompt, small.prompt);
  assert.deepEqual(wire.sent.map((request) => request.method), ["POST", "GET"]);
  assert.ok(Number(wire.sent[1]?.headers.get("last-event-id")) > 0);
  assert.ok(wire.sent[0]?.headers.get("idempotency-key"));
}

async function repeated(): Promise<void> {
  const sent: Request[] = [];
  const answers = [
    new Response("{}", { status: 503, headers: { "retry-after": "0" } }),
    Response.json({ error: { code: "quota_exceeded" }, detail: "later" }, { status: 429, headers: { "retry-after": "3600" } }),
  ];
  const fetch = async (request: Request): Promise<Response> => {
    sent.push(request);
    return answers.shift() ?? new Response();
  };
  const client = new Frontrunner({ baseUrl, fetch, key: "fr_1" });
  await assert.rejects(client.generate(small), (error) => error instanceof ApiError && error.retryAfterSeconds === 3600);
  assert.equal(sent.length, 2);
  assert.equal(sent[0]?.headers.get("authorization"), "Bearer fr_1");
  assert.equal(sent[0]?.headers.get("idempotency-key"), sent[1]?.headers.get("idempotency-key"));
}

async function cancelled(): Promise<void> {
  const client = new Frontrunner({ baseUrl });
  let id = "";
  for await (const event of client.stream({ prompt: "x", n_candidates: 64, steps: 150 })) {
    const page = await client.api.GET("/v1/generations", { params: { query: { limit: 1 } } });
    id = page.data?.data[0]?.id ?? "";
    assert.equal(event.kind, "queued");
    break;
  }
  await assert.rejects(
    client.api.GET("/v1/generations/{generation_id}", { params: { path: { generation_id: id } } }),
    (error) => error instanceof ApiError && error.status === 404 && error.code === "not_found",
  );
  const stop = new AbortController();
  const waiting = client.generate({ prompt: "y", n_candidates: 64, steps: 150 }, { signal: stop.signal, onEvent: () => stop.abort() });
  await assert.rejects(waiting, { name: "AbortError" });
  const running = await client.api.GET("/v1/generations", { params: { query: { status: ["queued", "running"] } } });
  assert.deepEqual(running.data?.data, []);
}

async function others(): Promise<void> {
  const client = new Frontrunner({ baseUrl: `${baseUrl}/v1/` });
  const made = await client.generate(small);
  const refined = await client.refine(made.id, { index: 1, n_candidates: 2 });
  assert.equal(refined.parent?.generation, made.id);
  assert.equal((await client.wait(made.id)).id, made.id);
  assert.deepEqual([...(await client.image(made.id, 0)).subarray(1, 4)], [..."PNG"].map((letter) => letter.charCodeAt(0)));
  await assert.rejects(client.generate({ prompt: "x", size: "65x64" }), (error) => {
    assert.ok(error instanceof ApiError);
    assert.equal(error.problem?.errors?.[0]?.pointer, "#/size");
    return true;
  });
  // @ts-expect-error: the types refuse a field that the service does not have
  await assert.rejects(client.generate({ prompt: "x", colour: "red" }), { code: "invalid_request" });
  assert.ok(new GenerationFailed({ ...made, status: "cancelled" }).message.startsWith(made.id));
}

function webhook(): void {
  const headers = JSON.parse(process.argv[3] ?? "") as Record<string, string>;
  const [secret = "", body = ""] = process.argv.slice(4);
  assert.deepEqual(verifyWebhook(body, headers, secret), JSON.parse(body));
  assert.throws(() => verifyWebhook(`${body} `, headers, secret), /signature/);
  assert.throws(() => verifyWebhook(body, { ...headers, "Webhook-Timestamp": "1" }, secret), /old/);
}

for (const check of [resumed, repeated, cancelled, others, webhook]) {
  await check();
  console.log(check.name);
}
