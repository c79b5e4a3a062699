// Vercel's AI SDK with its OpenAI provider against a service at argv[2]; prints one line for each call that worked.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import * as ai from "ai";

const [, , url] = process.argv;
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const generateImage = ai.generateImage ?? ai.experimental_generateImage;

const calls = {
  async images() {
    for (const name of ["gpt-image-1", "dall-e-3", "fake"]) {
      const { images } = await generateImage({ model: openai.image(name), prompt: "a red apple", size: "1024x1024" });
      assert.equal(images[0].mediaType, "image/png");
    }
  },
  async several() {
    const { images } = await generateImage({ model: openai.image("gpt-image-1"), prompt: "a red apple", n: 3 });
    assert.equal(images.length, 3);
  },
  async embeddings() {
    const model = openai.embedding("text-embedding-3-small");
    const { embedding } = await ai.embed({ model, value: "red" });
    const { embeddings } = await ai.embedMany({ model, values: ["red", "blue"] });
    assert.ok(ai.cosineSimilarity(embedding, embeddings[0]) > 0.999);
  },
  async errors() {
    const model = openai.image("none such");
    await assert.rejects(generateImage({ model, prompt: "x", maxRetries: 0 }), (error) => {
      assert.equal(error.statusCode, 404);
      assert.match(error.message, /none such/);
      return true;
    });
  },
};

for (const [name, call] of Object.entries(calls)) {
  await call();
  console.log(name);
}
