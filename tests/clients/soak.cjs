// soak.cjs - the three official clients at once, for as long as standard input stays open; then a tally.
//
//   node soak.cjs URL CONCURRENCY
//
// Each answer must be the text that the same question always gets, or a typed error of its client.
// Anything else (a wrong text, a short one that looks whole, an exception of another kind, no answer
// within a minute) is a complaint.
'use strict';
const OpenAI = require('openai');
const Anthropic = require('@anthropic-ai/sdk');
const { Ollama } = require('ollama');

const [url, concurrency] = [process.argv[2], Number(process.argv[3] ?? 4)];
const MODEL = process.env.DROVER_TEST_MODEL ?? 'sim-small';
const TOKENS = 24;
const messages = [{ role: 'user', content: 'Say something about rivers.' }];

const openai = new OpenAI.OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries: 2, timeout: 60000 });
const anthropic = new Anthropic.Anthropic({ baseURL: url, apiKey: 'unused', maxRetries: 2, timeout: 60000 });
const ollama = new Ollama({ host: url });

const kinds = {
  async openaiWhole() {
    const answer = await openai.chat.completions.create({ model: MODEL, messages, max_tokens: TOKENS });
    return answer.choices[0].message.content;
  },
  async openaiStream() {
    let text = '', finish = null;
    for await (const chunk of await openai.chat.completions.create({
      model: MODEL, messages, max_tokens: TOKENS, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? '';
      finish = chunk.choices[0]?.finish_reason ?? finish;
    }
    return finish === null ? new Error('ended without finish_reason') : text;
  },
  async anthropicWhole() {
    return (await anthropic.messages.create({ model: MODEL, messages, max_tokens: TOKENS })).content[0].text;
  },
  async anthropicStream() {
    const final = await anthropic.messages.stream({ model: MODEL, messages, max_tokens: TOKENS }).finalMessage();
    return final.stop_reason === null ? new Error('ended without stop_reason') : final.content[0].text;
  },
  async ollamaWhole() {
    return (await ollama.chat({ model: MODEL, messages, options: { num_predict: TOKENS }, stream: false })).message.content;
  },
  async ollamaStream() {
    let text = '', done = false;
    for await (const part of await ollama.chat({ model: MODEL, messages, options: { num_predict: TOKENS }, stream: true })) {
      text += part.message.content;
      done = part.done;
    }
    return done ? text : new Error('ended without done');
  },
};

// What a client may throw when the other side fails; the rest would be a puzzle to its user.
function isTyped(error) {
  return error instanceof OpenAI.APIError || error instanceof Anthropic.APIError ||
    error instanceof Anthropic.AnthropicError || error?.name === 'ResponseError' || error?.name === 'TypeError' ||
    error?.code === 'UND_ERR_SOCKET' || error?.code === 'ECONNRESET' ||
    (error?.constructor === Error && typeof error.message === 'string' && error.message !== '');
}

const tally = {}, complaints = [], expected = {};
let stopping = false;

function withDeadline(promise) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new RangeError('no end in 90 s')), 90000); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function one(kind) {
  let result = 'ok';
  try {
    const text = await withDeadline(kinds[kind]());
    if (text instanceof Error) {
      result = 'short';
    } else if (text !== (expected[kind] ??= text)) {
      result = 'wrong';
      complaints.push(`${kind}: ${JSON.stringify(text)} instead of ${JSON.stringify(expected[kind])}`);
    }
  } catch (error) {
    result = 'error';
    if (!isTyped(error)) complaints.push(`${kind}: ${error?.stack ?? error}`);
  }
  const key = `${kind} ${result}`;
  tally[key] = (tally[key] ?? 0) + 1;
  return result;
}

async function client(number) {
  const names = Object.keys(kinds);
  for (let turn = number; !stopping; turn++) {
    if (await one(names[turn % names.length]) !== 'ok') await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function main() {
  for (const kind of Object.keys(kinds)) {
    if (await one(kind) !== 'ok') throw new Error(`${kind} does not work before the soak`);
  }
  console.log('ready');
  process.stdin.on('end', () => { stopping = true; }).resume();
  await Promise.all(Array.from({ length: concurrency }, (_, i) => client(i)));
  console.log(JSON.stringify({ tally, complaints: complaints.slice(0, 10) }));
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
