// anthropic.cjs - the official Anthropic client against Drover.
'use strict';
const assert = require('node:assert/strict');
const Anthropic = require('@anthropic-ai/sdk');
const { main } = require('./common.cjs');

const MODEL = process.env.DROVER_TEST_MODEL ?? 'sim-small';
const request = { model: MODEL, max_tokens: 12, messages: [{ role: 'user', content: 'Say something about rivers.' }] };

function client(url, options = {}) {
  return new Anthropic.Anthropic({ baseURL: url, apiKey: 'unused', maxRetries: 0, ...options });
}

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: 'the call succeeded' });
}

main({
  async messages(url) {
    const answer = await client(url).messages.create(request);
    assert.equal(answer.type, 'message');
    assert.equal(answer.role, 'assistant');
    assert.equal(answer.model, MODEL);
    assert.equal(answer.content[0].type, 'text');
    assert.ok(answer.content[0].text.length > 0);
    assert.ok(['end_turn', 'max_tokens'].includes(answer.stop_reason));
    assert.ok(answer.usage.input_tokens > 0 && answer.usage.output_tokens > 0);
    return answer.content[0].text;
  },

  async stream(url) {
    let events = 0, text = '';
    const stream = client(url).messages.stream(request)
      .on('streamEvent', () => events++)
      .on('text', (delta) => { text += delta; });
    const final = await stream.finalMessage();
    assert.ok(events >= 6, `${events} events`);
    assert.equal(final.content[0].text, text);
    const whole = await client(url).messages.create(request);
    assert.equal(text, whole.content[0].text);
    return text;
  },

  async apiKey(url, key) {
    const error = await failure(client(url).messages.create(request));
    assert.ok(error instanceof Anthropic.AuthenticationError, error.constructor.name);
    assert.equal(error.error.error.type, 'authentication_error');
    await client(url, { apiKey: key }).messages.create(request);
    await client(url, { apiKey: null, authToken: key }).messages.create(request);
  },

  async errorUnknownModel(url) {
    const error = await failure(client(url).messages.create({ ...request, model: 'no-such-model' }));
    assert.ok(error instanceof Anthropic.NotFoundError, error.constructor.name);
    assert.equal(error.error.type, 'error');
    assert.equal(error.error.error.type, 'not_found_error');
    assert.ok(error.error.request_id, 'request id');
  },

  async errorBadRequest(url) {
    const error = await failure(client(url).messages.create({ ...request, model: 7 }));
    assert.ok(error instanceof Anthropic.BadRequestError, error.constructor.name);
    assert.equal(error.error.error.type, 'invalid_request_error');
  },

  async streamError(url) {
    const stream = client(url).messages.stream({ ...request, max_tokens: 400 });
    let text = '';
    stream.on('text', (delta) => {
      if (text === '') console.error('streaming');
      text += delta;
    });
    const error = await failure(stream.finalMessage());
    assert.ok(text.length > 0, 'content came before the error');
    assert.ok(error instanceof Anthropic.APIError, error.constructor.name);
    return String(error.message);
  },
});
