// langchain.cjs - LangChain against Drover, by its providers for OpenAI and Ollama.
'use strict';
const assert = require('node:assert/strict');
const { z } = require('zod');
const { ChatOpenAI, OpenAIEmbeddings } = require('@langchain/openai');
const { ChatOllama, OllamaEmbeddings } = require('@langchain/ollama');
const { tool } = require('@langchain/core/tools');
const { main } = require('./common.cjs');

const MODEL = process.env.DROVER_TEST_MODEL ?? 'sim-small';
const prompt = 'Say something about rivers.';
const providers = {
  openai: (url, more) => new ChatOpenAI({ model: MODEL, apiKey: 'unused', maxTokens: 12, maxRetries: 0,
    configuration: { baseURL: `${url}/v1` }, ...more }),
  responses: (url, more) => providers.openai(url, { useResponsesApi: true, ...more }),
  ollama: (url, more) => new ChatOllama({ model: MODEL, baseUrl: url, numPredict: 12, maxRetries: 0, ...more }),
};

main({
  async text(url, provider) {
    const model = providers[provider](url);
    const whole = await model.invoke(prompt);
    assert.ok(whole.text.length > 0 && whole.usage_metadata.output_tokens > 0);
    let text = '', pieces = 0, usage;
    for await (const chunk of await model.stream(prompt)) {
      text += chunk.text;
      usage = chunk.usage_metadata ?? usage;
      pieces++;
    }
    assert.ok(pieces > 2 && usage.output_tokens > 0);
    assert.equal(text, whole.text);
    return text;
  },

  async tools(url, provider) {
    const weather = tool(async ({ city }) => `cold in ${city}`, { name: 'weather', description: 'The weather',
      schema: z.object({ city: z.string() }) });
    const model = providers[provider](url).bindTools([weather]);
    const asked = await model.invoke('Weather in Oslo?');
    assert.equal(asked.tool_calls.length, 1);
    assert.deepEqual(asked.tool_calls[0].args, { city: 'Oslo' });
    const told = await weather.invoke(asked.tool_calls[0]);
    return (await model.invoke([['user', 'Weather in Oslo?'], asked, told])).text;
  },

  async object(url, provider) {
    return providers[provider](url).withStructuredOutput(z.object({ river: z.string() }), { method: 'jsonSchema' })
      .invoke(prompt);
  },

  async embed(url, provider) {
    const model = provider === 'ollama' ? new OllamaEmbeddings({ model: MODEL, baseUrl: url })
      : new OpenAIEmbeddings({ model: MODEL, apiKey: 'unused', configuration: { baseURL: `${url}/v1` } });
    const vectors = await model.embedDocuments(['a', 'b']);
    assert.equal(vectors.length, 2);
    return vectors[0].length;
  },

  async errors(url, provider) {
    const error = await providers[provider](url, { model: 'nope', maxRetries: 2 }).invoke(prompt)
      .then(() => null, (e) => e);
    assert.ok(error, 'it failed');
    assert.equal(error.status ?? error.status_code, 404);
    return error.message;
  },

  // Refused while no node is there, and served when the client tries again by itself.
  async retries(url, provider) {
    return (await providers[provider](url, { maxRetries: 4 }).invoke(prompt)).text;
  },

  async abort(url, provider) {
    const controller = new AbortController();
    try {
      for await (const chunk of await providers[provider](url, { maxTokens: 4000, numPredict: 4000 })
        .stream(prompt, { signal: controller.signal })) {
        assert.ok(chunk);
        controller.abort();
      }
    } catch (error) {
      assert.match(`${error.name} ${error.message}`, /abort/i);
    }
    return controller.signal.aborted;
  },
});
