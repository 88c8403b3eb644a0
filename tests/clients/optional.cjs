// optional.cjs - libraries that are too large for the suite, each where it is installed (scripts/try-clients).
'use strict';
const assert = require('node:assert/strict');
const { main } = require('./common.cjs');

const model = process.env.DROVER_TEST_MODEL;
const content = 'Say something about rivers.';

main({
  async llamaindex(url) {
    const { OpenAI } = require('@llamaindex/openai');
    const llm = new OpenAI({ model, apiKey: 'unused', baseURL: `${url}/v1`, maxTokens: 12, maxRetries: 0, temperature: 0 });
    const messages = [{ role: 'user', content }];
    const whole = (await llm.chat({ messages })).message.content;
    assert.ok(whole.length > 0);
    let text = '', pieces = 0;
    for await (const chunk of await llm.chat({ messages, stream: true })) {
      text += chunk.delta;
      pieces++;
    }
    assert.ok(pieces > 2);
    assert.equal(text, whole);
    const error = await new OpenAI({ model: 'nope', apiKey: 'unused', baseURL: `${url}/v1`, maxRetries: 0 })
      .chat({ messages }).then(() => null, (e) => e);
    assert.equal(error.status, 404);
    return text;
  },

  async langchainAnthropic(url) {
    const { ChatAnthropic } = require('@langchain/anthropic');
    const llm = new ChatAnthropic({ model, apiKey: 'unused', anthropicApiUrl: url, maxTokens: 12, maxRetries: 0 });
    const whole = await llm.invoke(content);
    assert.ok(whole.text.length > 0 && whole.usage_metadata.output_tokens > 0);
    let text = '', pieces = 0;
    for await (const chunk of await llm.stream(content)) {
      text += chunk.text;
      pieces++;
    }
    assert.ok(pieces > 2);
    assert.equal(text, whole.text);
    return text;
  },
});
