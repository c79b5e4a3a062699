// The openai package of Node against a service at argv[2]; prints one line for each call that worked.
import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import OpenAI, { NotFoundError } from "openai";

const [, , url, picture] = process.argv;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const small = { prompt: "a red apple", n_candidates: 2, steps: 2 };

const calls = {
  async generate() {
    const { data, warnings } = await client.images.generate({ ...small, model: "gpt-image-1", size: "1024x1024", n: 2 });
    assert.equal(data.length, 2);
    assert.ok(data[0].b64_json);
    assert.deepEqual(warnings.map((warning) => warning.code).slice(0, 1), ["model_aliased"]);
  },
  async links() {
    const { data } = await client.images.generate({ ...small, model: "dall-e-3", size: "1024x1024" });
    const image = await fetch(data[0].url);
    assert.equal(image.headers.get("content-type"), "image/png");
  },
  async stream() {
    const kinds = [];
    const events = await client.images.generate({ ...small, model: "gpt-image-1", stream: true, partial_images: 1 });
    for await (const event of events) kinds.push(event.type);
    assert.equal(kinds.at(-1), "image_generation.completed");
    assert.ok(kinds.includes("image_generation.partial_image"));
  },
  async edit() {
    const image = createReadStream(picture);
    const { data } = await client.images.edit({ ...small, model: "gpt-image-1", image });
    assert.ok(data[0].b64_json);
  },
  async variation() {
    const image = createReadStream(picture);
    const { data } = await client.images.createVariation({ image, model: "dall-e-2", n: 1, size: "256x256" });
    assert.ok(data[0].url);
  },
  async embeddings() {
    const { data } = await client.embeddings.create({ model: "text-embedding-3-small", input: ["red", "blue"] });
    assert.equal(data.length, 2);
    assert.ok(Math.abs(Math.hypot(...data[0].embedding) - 1) < 1e-4);
  },
  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.deepEqual(names, ["fake"]);
  },
  async errors() {
    await assert.rejects(client.images.generate({ prompt: "x", model: "none such" }), (error) => {
      assert.ok(error instanceof NotFoundError);
      assert.equal(error.code, "not_found");
      assert.equal(error.param, "model");
      return true;
    });
  },
};

for (const [name, call] of Object.entries(calls)) {
  await call();
  console.log(name);
}
