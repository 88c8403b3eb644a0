// openai.cjs - the official OpenAI client against Drover.
'use strict';
const assert = require('node:assert/strict');
const OpenAI = require('openai');
const { main, recordingFetch } = require('./common.cjs');

const MODEL = process.env.DROVER_TEST_MODEL ?? 'sim-small';
const messages = [{ role: 'user', content: 'Say something about rivers.' }];

function client(url, options = {}) {
  return new OpenAI.OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries: 0, ...options });
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
  async chat(url) {
    const answer = await client(url).chat.completions.create({ model: MODEL, messages, max_tokens: 12 });
    assert.equal(answer.object, 'chat.completion');
    assert.equal(answer.model, MODEL);
    assert.equal(answer.choices.length, 1);
    assert.equal(answer.choices[0].message.role, 'assistant');
    assert.ok(answer.choices[0].message.content.length > 0);
    assert.ok(['stop', 'length'].includes(answer.choices[0].finish_reason));
    assert.ok(answer.usage.prompt_tokens > 0);
    assert.ok(answer.usage.completion_tokens > 0 && answer.usage.completion_tokens <= 12);
    return answer.choices[0].message.content;
  },

  async stream(url) {
    const stream = await client(url).chat.completions.create({
      model: MODEL, messages, max_tokens: 12, stream: true, stream_options: { include_usage: true },
    });
    let text = '', finish = null, usage = null, chunks = 0;
    for await (const chunk of stream) {
      chunks++;
      assert.equal(chunk.object, 'chat.completion.chunk');
      if (chunk.usage) usage = chunk.usage;
      for (const choice of chunk.choices) {
        assert.equal(finish, null, 'content after finish_reason');
        text += choice.delta.content ?? '';
        finish = choice.finish_reason;
      }
    }
    assert.ok(chunks >= 3);
    assert.ok(finish);
    assert.ok(usage && usage.completion_tokens > 0, 'usage was asked for');
    const whole = await client(url).chat.completions.create({ model: MODEL, messages, max_tokens: 12 });
    assert.equal(text, whole.choices[0].message.content);
    return text;
  },

  // Without include_usage no chunk may have an empty `choices`: many programs index [0].
  async streamWithoutUsage(url) {
    const stream = await client(url).chat.completions.create({ model: MODEL, messages, max_tokens: 6, stream: true });
    let chunks = 0;
    for await (const chunk of stream) {
      assert.equal(chunk.choices.length, 1);
      chunks++;
    }
    assert.ok(chunks >= 3);
  },

  async completions(url) {
    const answer = await client(url).completions.create({ model: MODEL, prompt: 'Once upon', max_tokens: 8 });
    assert.ok(answer.choices[0].text.length > 0);
  },

  async streamCompletions(url) {
    const request = { model: MODEL, prompt: 'Once upon', max_tokens: 12 };
    const stream = await client(url).completions.create({ ...request, stream: true });
    let text = '', finish = null;
    const ids = new Set();
    for await (const part of stream) {
      assert.equal(part.object, 'text_completion');
      assert.equal(finish, null, 'text after finish_reason');
      ids.add(part.id);
      text += part.choices[0].text;
      finish = part.choices[0].finish_reason;
    }
    assert.ok(finish);
    assert.equal(ids.size, 1);
    const whole = await client(url).completions.create(request);
    assert.equal(text, whole.choices[0].text);
    return text;
  },

  // An engine that sends blocks without data: to the client they are not there.
  async severalPrompts(url) {
    const request = { model: MODEL, prompt: ['Once upon', 'Twice upon', 'At last'], max_tokens: 6 };
    const whole = await client(url).completions.create(request);
    assert.deepEqual(whole.choices.map((choice) => choice.index), [0, 1, 2]);
    assert.ok(whole.usage.completion_tokens > 6, 'the usage of all prompts is added up');
    const texts = ['', '', ''];
    for await (const chunk of await client(url).completions.create({ ...request, stream: true })) {
      for (const choice of chunk?.choices ?? []) texts[choice.index] += choice.text;
    }
    assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
    return texts;
  },

  async streamResponses(url) {
    const request = { model: MODEL, input: 'Say something about rivers.', max_output_tokens: 12 };
    const stream = await client(url).responses.create({ ...request, stream: true });
    const items = new Set(), ids = new Set();
    let text = '', last = null;
    for await (const event of stream) {
      if (event.response) ids.add(event.response.id);
      if (event.type === 'response.output_text.delta') {
        text += event.delta;
        items.add(event.item_id);
      }
      if (event.type === 'response.output_text.done') assert.equal(event.text, text);
      last = event;
    }
    assert.ok(['response.completed', 'response.incomplete'].includes(last.type), last.type);
    assert.equal(items.size, 1);
    assert.equal(ids.size, 1);
    assert.equal(last.response.output[0].content[0].text, text);
    assert.ok(last.response.usage.output_tokens > 0);
    const whole = await client(url).responses.create(request);
    assert.equal(whole.output[0].content[0].text, text);
    return text;
  },

  async silentBlocks(url) {
    const stream = await client(url).chat.completions.create({ model: MODEL, messages, stream: true });
    let text = '';
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? '';
    return text;
  },

  async embeddings(url) {
    // The client asks for base64 and decodes it, unless told otherwise.
    for (const encoding_format of [undefined, 'float']) {
      const answer = await client(url).embeddings.create({ model: MODEL, input: ['one', 'two'], encoding_format });
      assert.equal(answer.data.length, 2);
      assert.ok(answer.data[0].embedding.length > 0);
      assert.ok(answer.data[0].embedding.every(Number.isFinite));
      assert.notDeepEqual(answer.data[0].embedding, answer.data[1].embedding);
    }
  },

  async models(url) {
    const ids = [];
    for await (const model of client(url).models.list()) ids.push(model.id);
    assert.ok(ids.includes(MODEL), `models: ${ids}`);
    assert.equal(new Set(ids).size, ids.length, 'a model listed twice');
    const one = await client(url).models.retrieve(MODEL);
    assert.equal(one.id, MODEL);
    assert.equal(one.object, 'model');
    return ids;
  },

  async apiKey(url, key) {
    const error = await failure(client(url).chat.completions.create({ model: MODEL, messages }));
    assert.ok(error instanceof OpenAI.AuthenticationError, error.constructor.name);
    assert.equal(error.status, 401);
    assert.equal(error.code, 'invalid_api_key');
    assert.ok(error.requestID, 'x-request-id');
    const answer = await client(url, { apiKey: key }).chat.completions.create({ model: MODEL, messages, max_tokens: 4 });
    assert.ok(answer.choices[0].message.content.length > 0);
  },

  async errorUnknownModel(url) {
    const error = await failure(client(url).chat.completions.create({ model: 'no-such-model', messages }));
    assert.ok(error instanceof OpenAI.NotFoundError, error.constructor.name);
    assert.equal(error.status, 404);
    assert.equal(error.code, 'model_not_found');
    assert.equal(error.param, 'model');
    assert.ok(error.requestID, 'x-request-id');
    assert.ok(error.error.message.includes('no-such-model'));
    assert.equal(error.error.src, 'drover');
    const retrieve = await failure(client(url).models.retrieve('no-such-model'));
    assert.ok(retrieve instanceof OpenAI.NotFoundError);
  },

  async errorBadRequest(url) {
    const error = await failure(client(url).chat.completions.create({ model: 7, messages }));
    assert.ok(error instanceof OpenAI.BadRequestError, error.constructor.name);
    assert.equal(error.type, 'invalid_request_error');
    assert.equal(error.param, 'model');
  },

  // An abort in mid-stream ends the loop without an exception of its own, and at once.
  async abort(url, id) {
    const stream = await client(url).chat.completions.create(
      { model: MODEL, messages, max_tokens: 100000, stream: true }, { headers: { 'x-request-id': id } });
    let chunks = 0;
    for await (const chunk of stream) {
      if (++chunks === 4) stream.controller.abort();
    }
    // What one read had brought with the fourth is still given.
    assert.ok(chunks >= 4 && chunks < 1000, `${chunks} chunks`);
  },

  // A final failure inside Drover was already retried there: the client must not multiply it.
  async noRetryAfterFinalFailure(url) {
    const { recorded, exchanges } = recordingFetch();
    const error = await failure(client(url, { maxRetries: 3, fetch: recorded })
      .chat.completions.create({ model: MODEL, messages, max_tokens: 4 }));
    assert.ok(error instanceof OpenAI.InternalServerError, error.constructor.name);
    assert.equal(error.status, 502);
    assert.equal(exchanges.length, 1, 'x-should-retry: false');
    assert.equal(exchanges[0].headers.get('x-should-retry'), 'false');
  },

  // Nothing can serve: 503 with Retry-After; prints a line so that the test may bring a node back.
  async retryAfter(url) {
    const { recorded, exchanges } = recordingFetch();
    const announce = async (...args) => {
      const response = await recorded(...args);
      if (response.status === 503 && exchanges.length === 1) console.error('first answer was 503');
      return response;
    };
    const answer = await client(url, { maxRetries: 20, fetch: announce })
      .chat.completions.create({ model: MODEL, messages, max_tokens: 4 });
    assert.ok(answer.choices[0].message.content.length > 0);
    assert.ok(exchanges.length >= 2);
    const first = exchanges[0];
    assert.equal(first.status, 503);
    const wait_s = Number(first.headers.get('retry-after'));
    assert.ok(Number.isInteger(wait_s) && wait_s >= 1 && wait_s <= 60, `retry-after ${wait_s}`);
    const waited_s = (exchanges[1].at - first.done) / 1000;
    assert.ok(waited_s >= wait_s * 0.99, `retried after ${waited_s} s`);
    assert.equal(exchanges.at(-1).status, 200);
    return exchanges.length;
  },

  async streamError(url) {
    const stream = await client(url).chat.completions.create({ model: MODEL, messages, max_tokens: 400, stream: true });
    let text = '';
    const error = await failure((async () => {
      for await (const chunk of stream) {
        if (text === '') console.error('streaming');
        text += chunk.choices[0]?.delta?.content ?? '';
      }
    })());
    assert.ok(text.length > 0, 'content came before the error');
    assert.ok(error instanceof OpenAI.APIError, error.constructor.name);
    return String(error.message);
  },
});
