// @ts-check
/** One short question in the protocol of a program, and what came of it. Knows no signals, no DOM. */

import { rootOf } from './connect-snippets.js';

/**
 * @typedef {import('./connect-snippets.js').Protocol} Protocol
 * @typedef {{ok: true, text: string, seconds: number} | {ok: false, message: string, remedy: string}} Outcome
 */

const QUESTION = 'Say hello.';
const TOKENS = 24;
const ASKED = [{ role: 'user', content: QUESTION }];

/**
 * What each protocol sends, and where its answer has its text. A model that thinks may not have
 * begun to answer after so few tokens: then its thoughts will do.
 * @type {Record<Protocol, {path: string, body: (model: string) => object, text: (answer: any) => string | undefined}>}
 */
const PROTOCOLS = {
  openai: {
    path: '/v1/chat/completions',
    body: (model) => ({ model, messages: ASKED, max_tokens: TOKENS }),
    text: (answer) => answer.choices?.[0]?.message?.content || answer.choices?.[0]?.message?.reasoning_content,
  },
  responses: {
    path: '/v1/responses',
    body: (model) => ({ model, input: QUESTION, max_output_tokens: TOKENS }),
    text: (answer) => answer.output?.flatMap((/** @type {any} */ item) => item.content ?? [])
      .map((/** @type {any} */ part) => part.text ?? '').join(''),
  },
  anthropic: {
    path: '/v1/messages',
    body: (model) => ({ model, messages: ASKED, max_tokens: TOKENS }),
    text: (answer) => answer.content?.map((/** @type {any} */ part) => part.text ?? part.thinking ?? '').join(''),
  },
  ollama: {
    path: '/api/chat',
    body: (model) => ({ model, messages: ASKED, stream: false, options: { num_predict: TOKENS } }),
    text: (answer) => answer.message?.content || answer.message?.thinking,
  },
  embeddings: {
    path: '/v1/embeddings',
    body: (model) => ({ model, input: 'A llama on a hill.' }),
    text: (answer) => (answer.data?.[0]?.embedding ? `A vector of ${answer.data[0].embedding.length} numbers.` : undefined),
  },
};

/** @param {Protocol} protocol @param {string} key @returns {Record<string, string>} */
function headers(protocol, key) {
  /** @type {Record<string, string>} */
  const given = { 'Content-Type': 'application/json' };
  if (protocol === 'anthropic') given['anthropic-version'] = '2023-06-01';
  if (key) given[protocol === 'anthropic' ? 'x-api-key' : 'Authorization'] = protocol === 'anthropic' ? key : `Bearer ${key}`;
  return given;
}

/** Our errors are OpenAI's, Anthropic's, or Ollama's plain text. @param {any} answer @param {number} status @returns {Outcome} */
function refusal(answer, status) {
  const error = answer?.error;
  if (typeof error === 'string') return { ok: false, message: error, remedy: '' };
  return { ok: false, message: String(error?.message || `The server answered with HTTP ${status}.`), remedy: String(error?.remedy || '') };
}

/**
 * Ask once. Ends with null when `signal` is aborted.
 * @param {object} ask
 * @param {Protocol} ask.protocol
 * @param {string} ask.base "http://127.0.0.1:7070/v1"
 * @param {string} ask.model
 * @param {string} ask.key '' where none is needed
 * @param {AbortSignal} ask.signal
 * @param {typeof fetch} [ask.fetchFn] replaced in tests
 * @returns {Promise<Outcome | null>}
 */
export async function tryOut({ protocol, base, model, key, signal, fetchFn = fetch }) {
  const { path, body, text } = PROTOCOLS[protocol];
  const started = performance.now();
  try {
    const response = await fetchFn(rootOf(base) + path, {
      method: 'POST', headers: headers(protocol, key), body: JSON.stringify(body(model)), signal,
    });
    const answer = await response.json().catch(() => null);
    if (!response.ok) return refusal(answer, response.status);
    const said = answer && text(answer);
    if (!said) return { ok: false, message: 'The answer had no text in it.', remedy: 'The model’s log says more (Server page).' };
    return { ok: true, text: said.trim(), seconds: (performance.now() - started) / 1000 };
  } catch {
    if (signal.aborted) return null;
    return { ok: false, message: `No answer at ${base}.`, remedy: 'The Server page says whether it listens there.' };
  }
}
