// ollama.cjs - Ollama's official client against Drover.
'use strict';
const assert = require('node:assert/strict');
const { Ollama } = require('ollama');
const { main } = require('./common.cjs');

const MODEL = process.env.DROVER_TEST_MODEL ?? 'sim-small';
const messages = [{ role: 'user', content: 'Say something about rivers.' }];
const options = { num_predict: 12 };

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: 'the call succeeded' });
}

main({
  async chat(url) {
    const answer = await new Ollama({ host: url }).chat({ model: MODEL, messages, options, stream: false });
    assert.equal(answer.done, true);
    assert.equal(answer.message.role, 'assistant');
    assert.ok(answer.message.content.length > 0);
    assert.ok(answer.eval_count > 0);
    return answer.message.content;
  },

  async stream(url) {
    const ollama = new Ollama({ host: url });
    let text = '', parts = 0, last = null;
    for await (const part of await ollama.chat({ model: MODEL, messages, options, stream: true })) {
      text += part.message.content;
      parts++;
      last = part;
    }
    assert.ok(parts >= 3);
    assert.equal(last.done, true);
    const whole = await ollama.chat({ model: MODEL, messages, options, stream: false });
    assert.equal(text, whole.message.content);
    return text;
  },

  async apiKey(url, key) {
    const chat = { model: MODEL, messages, options, stream: false };
    const error = await failure(new Ollama({ host: url }).chat(chat));
    assert.equal(error.status_code, 401);
    assert.ok(error.message.includes('API key'), error.message);
    const headers = { Authorization: `Bearer ${key}` };
    await new Ollama({ host: url, headers }).chat(chat);
  },

  async generate(url) {
    const answer = await new Ollama({ host: url }).generate({ model: MODEL, prompt: 'Once upon', options, stream: false });
    assert.equal(answer.done, true);
    assert.ok(answer.response.length > 0);
  },

  async embed(url) {
    const answer = await new Ollama({ host: url }).embed({ model: MODEL, input: ['one', 'two'] });
    assert.equal(answer.embeddings.length, 2);
    assert.ok(answer.embeddings[0].length > 0);
  },

  async list(url) {
    const ollama = new Ollama({ host: url });
    const answer = await ollama.list();
    assert.ok(answer.models.some((model) => model.name === MODEL || model.model === MODEL));
    const running = await ollama.ps();
    assert.ok(Array.isArray(running.models));
    assert.match((await ollama.version()).version, /^\d+\.\d+/);
  },

  async manage(url) {
    const ollama = new Ollama({ host: url });
    assert.equal((await ollama.pull({ model: MODEL, stream: false })).status, 'success');
    let last = null;
    for await (const part of await ollama.pull({ model: MODEL, stream: true }))
      last = part;
    assert.equal(last.status, 'success');
    assert.equal((await ollama.generate({ model: MODEL, prompt: '', keep_alive: 0, stream: false })).done_reason, 'unload');
    for (const refused of [
      () => ollama.pull({ model: 'no-such-model' }), () => ollama.push({ model: MODEL }),
      () => ollama.delete({ model: MODEL }), () => ollama.copy({ source: MODEL, destination: 'other' }),
      () => ollama.create({ model: 'other', from: MODEL }),
    ]) {
      const error = await failure(refused());
      assert.equal(error.name, 'ResponseError');
      assert.equal(error.status_code, 501);
      assert.match(error.message, /at the Ollama of each node/);
    }
  },

  async errorUnknownModel(url) {
    const error = await failure(new Ollama({ host: url }).chat({ model: 'no-such-model', messages }));
    assert.equal(error.name, 'ResponseError');
    assert.equal(error.status_code, 404);
    assert.ok(error.message.includes('no-such-model'), error.message);
  },

  async streamError(url) {
    const stream = await new Ollama({ host: url }).chat({ model: MODEL, messages, options: { num_predict: 400 }, stream: true });
    let text = '';
    const error = await failure((async () => {
      for await (const part of stream) {
        if (text === '') console.error('streaming');
        text += part.message.content;
      }
    })());
    assert.ok(text.length > 0, 'content came before the error');
    return String(error.message);
  },
});
