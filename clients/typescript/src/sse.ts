/** Server-sent events of a response, as the standard defines them. */

export interface Message {
  event: string;
  data: string;
  id: string;
}

/** The messages of a stream; an event without its empty line is dropped. */
export async function* messages(body: ReadableStream<Uint8Array>): AsyncGenerator<Message> {
  let fields: Partial<Message> = {};
  for await (const line of lines(body)) {
    if (line === "") {
      if (fields.data !== undefined) {
        yield { event: fields.event ?? "message", data: fields.data, id: fields.id ?? "" };
      }
      fields = {};
      continue;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") fields.data = fields.data === undefined ? value : `${fields.data}\n${value}`;
    else if (name === "event" || name === "id") fields[name] = value;
  }
}

async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = parts.pop() ?? "";
      yield* parts;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
