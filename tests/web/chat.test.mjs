import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SseReader, stepsOf, streamChat } from '../../tray_app/web/chat-stream.js';
import { applyStep, requestMessages } from '../../tray_app/web/chat-state.js';

const chunk = (delta, more = {}) => `data: ${JSON.stringify({ model: 'm', choices: [{ delta }], ...more })}\n\n`;
const STREAM = [': loading model\n\n', chunk({ role: 'assistant', content: null }), chunk({ reasoning_content: 'hm ' }), chunk({ content: 'Grüße 🦙' }),
  `data: ${JSON.stringify({ choices: [{ delta: {}, finish_reason: 'stop' }], timings: { predicted_n: 4, predicted_per_second: 50 } })}\n\n`, 'data: [DONE]\n\n'].join('');

const reply = (pieces, status = 200) => ({
  ok: status < 400, status, body: new ReadableStream({ start(c) { for (const piece of pieces) c.enqueue(piece); c.close(); } }), text: async () => Buffer.concat(pieces).toString(),
});
async function collect(fetchFn, signal = new AbortController().signal) {
  const steps = [];
  for await (const step of streamChat({ baseUrl: 'http://x/v1', messages: [], signal, fetchFn })) steps.push(step);
  return steps;
}

test('a stream reads the same however it is cut', async () => {
  const bytes = Buffer.from(STREAM);
  const whole = await collect(async () => reply([bytes]));
  assert.deepEqual(whole, [
    { type: 'waiting', text: 'loading model' },
    { type: 'delta', content: '', reasoning: 'hm ', model: 'm' },
    { type: 'delta', content: 'Grüße 🦙', reasoning: '', model: 'm' },
    { type: 'numbers', tokens: 4, tokens_per_s: 50 },
    { type: 'finish', reason: 'stop' },
  ]);
  for (const size of [1, 2, 3, 7, 64]) {
    const pieces = [];
    for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.subarray(i, i + size));
    assert.deepEqual(await collect(async () => reply(pieces)), whole, `${size} bytes a piece`);
  }
});

test('lines may end in CR LF, and data may have several lines', () => {
  assert.deepEqual(new SseReader().push('event: a\r\ndata: 1\r\ndata: 2\r\n\r\n'), [{ kind: 'event', name: 'a', text: '1\n2' }]);
});

test('errors keep their remedy, wherever they come', async () => {
  const error = { message: 'It died.', remedy: 'Look at its log.' };
  const step = { type: 'error', ...error };
  assert.deepEqual(stepsOf('', JSON.stringify({ error })), [step]);
  assert.deepEqual(stepsOf('error', JSON.stringify(error)), [step]);
  assert.deepEqual(await collect(async () => reply([Buffer.from(JSON.stringify({ error }))], 503)), [step]);
  assert.match((await collect(async () => reply([Buffer.from('<html>')], 502)))[0].message, /HTTP 502/);
  assert.match((await collect(async () => { throw new TypeError('x'); }))[0].message, /No answer at http:\/\/x\/v1/);
});

test('what is no JSON is passed over', () => {
  assert.deepEqual(stepsOf('', 'not json'), []);
  assert.deepEqual(stepsOf('', '{}'), []);
});

test('a stopped answer ends without an error', async () => {
  const controller = new AbortController();
  controller.abort();
  assert.deepEqual(await collect(async () => { throw new DOMException('', 'AbortError'); }, controller.signal), []);
});

const OPEN = { content: '', reasoning: '', model: '', first_token_s: null, tokens: null, tokens_per_s: null, end: '', error: null };

test('the time to the first token is measured once, and the server\'s own speed wins', () => {
  let m = applyStep(OPEN, { type: 'delta', content: 'a', reasoning: '', model: 'm' }, { elapsed_s: 0.5, chunks: 1 });
  m = applyStep(m, { type: 'delta', content: 'b', reasoning: '', model: 'm' }, { elapsed_s: 1.5, chunks: 11 });
  assert.deepEqual([m.content, m.first_token_s, m.tokens_per_s, m.model], ['ab', 0.5, 10, 'm']);
  m = applyStep(m, { type: 'numbers', tokens: 12, tokens_per_s: 9.5 }, { elapsed_s: 1.5, chunks: 11 });
  assert.deepEqual([m.tokens, m.tokens_per_s], [12, 9.5]);
});

test('a question carries the system prompt and leaves out empty answers and thoughts', () => {
  const list = [{ role: 'user', content: 'a' }, { role: 'assistant', content: '', reasoning: 'x' }, { role: 'user', content: 'b' }];
  assert.deepEqual(requestMessages(list, ' be kind '), [{ role: 'system', content: 'be kind' }, { role: 'user', content: 'a' }, { role: 'user', content: 'b' }]);
  assert.equal(requestMessages(list, ' ').length, 2);
});
