// ai.cjs - Vercel's AI SDK against Drover, by each of its three providers.
'use strict';
const assert = require('node:assert/strict');
const ai = require('ai');
const { z } = require('zod');
const { createOpenAI } = require('@ai-sdk/openai');
const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
const { createAnthropic } = require('@ai-sdk/anthropic');
const { main } = require('./common.cjs');

const MODEL = process.env.DROVER_TEST_MODEL ?? 'sim-small';
const prompt = 'Say something about rivers.';
const providers = {
  openai: (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: 'unused' })(MODEL), // Responses
  chat: (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: 'unused' }).chat(MODEL),
  compatible: (url) => createOpenAICompatible({ name: 'drover', baseURL: `${url}/v1`, includeUsage: true,
    supportsStructuredOutputs: true })(MODEL),
  anthropic: (url) => createAnthropic({ baseURL: `${url}/v1`, apiKey: 'unused' })(MODEL),
};

main({
  async text(url, provider) {
    const model = providers[provider](url);
    const whole = await ai.generateText({ model, prompt, maxOutputTokens: 12, maxRetries: 0 });
    assert.ok(whole.text.length > 0 && whole.usage.outputTokens > 0);
    const stream = ai.streamText({ model, prompt, maxOutputTokens: 12, maxRetries: 0 });
    let text = '', pieces = 0;
    for await (const delta of stream.textStream) {
      text += delta;
      pieces++;
    }
    assert.ok(pieces > 2);
    assert.equal(text, whole.text);
    assert.ok((await stream.usage).outputTokens > 0);
    return text;
  },

  // The engine calls the tool, and then says what the tool gave.
  async tools(url, provider) {
    const asked = [];
    const done = await ai.generateText({
      model: providers[provider](url), prompt: 'Weather in Oslo?', maxRetries: 0, stopWhen: ai.stepCountIs(3),
      tools: { weather: ai.tool({ description: 'The weather', inputSchema: z.object({ city: z.string() }),
        execute: async ({ city }) => { asked.push(city); return `cold in ${city}`; } }) },
    });
    assert.deepEqual(asked, ['Oslo']);
    return done.text;
  },

  async object(url, provider) {
    const done = await ai.generateObject({ model: providers[provider](url), prompt, maxRetries: 0,
      schema: z.object({ river: z.string() }) });
    return done.object;
  },

  async embed(url) {
    const model = createOpenAICompatible({ name: 'drover', baseURL: `${url}/v1` }).textEmbeddingModel(MODEL);
    const { embeddings } = await ai.embedMany({ model, values: ['a', 'b'] });
    assert.equal(embeddings.length, 2);
    return embeddings[0].length;
  },

  async errors(url, provider) {
    const build = { openai: () => createOpenAI({ baseURL: `${url}/v1`, apiKey: 'x' })('nope'),
      compatible: () => createOpenAICompatible({ name: 'd', baseURL: `${url}/v1` })('nope'),
      anthropic: () => createAnthropic({ baseURL: `${url}/v1`, apiKey: 'x' })('nope') };
    const error = await ai.generateText({ model: build[provider](), prompt, maxRetries: 2 }).then(() => null, (e) => e);
    assert.ok(ai.APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 404);
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /no node serves|does not exist|nope/);
    return error.message;
  },

  // Refused while no node is there, and served when the client tries again by itself.
  async retries(url, provider) {
    const done = await ai.generateText({ model: providers[provider](url), prompt, maxRetries: 4 });
    return done.text;
  },

  async abort(url, provider) {
    const controller = new AbortController();
    const stream = ai.streamText({ model: providers[provider](url), prompt, maxOutputTokens: 4000,
      abortSignal: controller.signal, onError: () => {} });
    for await (const delta of stream.textStream) {
      assert.ok(delta.length > 0);
      controller.abort();
    }
    return controller.signal.aborted;
  },
});
