// @ts-check
/** The conversation on the chat page: kept in this page's session only. */

import { batch, computed, signal } from './html.js';
import { streamChat } from './chat-stream.js';

/**
 * @typedef {object} Message
 * @property {number} id
 * @property {'user' | 'assistant'} role
 * @property {string} content
 * @property {string} reasoning
 * @property {string} model the model that answered
 * @property {number | null} first_token_s
 * @property {number | null} tokens
 * @property {number | null} tokens_per_s
 * @property {string} end '' while open, then 'stop', 'length', 'stopped' or 'error'
 * @property {{message: string, remedy: string} | null} error
 */

const KEY = 'llama-wrangler.chat';

/** @type {import('./html.js').Signal<Message[]>} */
export const messages = signal([]);
export const systemPrompt = signal('');
/** Text in the composer. */
export const draft = signal('');
/** What the open answer waits for, '' once tokens come. */
export const waitingText = signal('');
/** @type {import('./html.js').Signal<AbortController | null>} */
const running = signal(null);
export const streaming = computed(() => running.value !== null);

let lastId = 0;

/** @param {Partial<Message> & Pick<Message, 'role'>} part @returns {Message} */
function message(part) {
  lastId += 1;
  return {
    id: lastId, content: '', reasoning: '', model: '', first_token_s: null, tokens: null, tokens_per_s: null,
    end: '', error: null, ...part,
  };
}

/** Brings back the conversation of this session, if the storage still has it. */
export function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? 'null');
    if (!kept) return;
    messages.value = kept.messages.map((/** @type {Message} */ m) => message({ ...m, id: lastId + 1, end: m.end || 'stopped' }));
    systemPrompt.value = kept.systemPrompt;
  } catch { /* storage refused or of another version: start empty */ }
}

function keep() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ messages: messages.value, systemPrompt: systemPrompt.value }));
  } catch { /* full or refused: the page still has it */ }
}

/** @param {string} text */
export function setSystemPrompt(text) {
  systemPrompt.value = text;
  keep();
}

export function newChat() {
  stop();
  messages.value = [];
  keep();
}

/** Ends the open answer and keeps what came. */
export function stop() {
  running.value?.abort();
}

/**
 * @param {string} text
 * @param {string} baseUrl
 */
export function send(text, baseUrl) {
  if (running.value || !text.trim()) return;
  messages.value = [...messages.value, message({ role: 'user', content: text.trim(), end: 'stop' })];
  answer(baseUrl);
}

/** Asks again for the last answer. @param {string} baseUrl */
export function regenerate(baseUrl) {
  if (running.value) return;
  const list = messages.value;
  messages.value = list[list.length - 1]?.role === 'assistant' ? list.slice(0, -1) : list;
  answer(baseUrl);
}

/** Takes the last question back into the composer, with all that followed it. */
export function editLast() {
  if (running.value) return;
  const at = messages.value.findLastIndex((m) => m.role === 'user');
  if (at < 0) return;
  batch(() => {
    draft.value = messages.value[at].content;
    messages.value = messages.value.slice(0, at);
  });
  keep();
}

/** @param {Message[]} list @param {string} system */
export function requestMessages(list, system) {
  const asked = list
    .filter((m) => m.role === 'user' || m.content)
    .map(({ role, content }) => ({ role: /** @type {string} */ (role), content }));
  return system.trim() ? [{ role: 'system', content: system.trim() }, ...asked] : asked;
}

/**
 * @param {Message} open
 * @param {import('./chat-stream.js').Step} step
 * @param {{elapsed_s: number, chunks: number}} measured
 * @returns {Message}
 */
export function applyStep(open, step, measured) {
  if (step.type === 'delta') {
    const first = open.first_token_s ?? measured.elapsed_s;
    const since = measured.elapsed_s - first;
    return {
      ...open,
      content: open.content + step.content,
      reasoning: open.reasoning + step.reasoning,
      model: step.model || open.model,
      first_token_s: first,
      tokens: measured.chunks, // one chunk is one token, until the server's own count comes
      tokens_per_s: since > 0.25 ? (measured.chunks - 1) / since : open.tokens_per_s,
    };
  }
  if (step.type === 'numbers') {
    return { ...open, tokens: step.tokens ?? open.tokens, tokens_per_s: step.tokens_per_s ?? open.tokens_per_s };
  }
  if (step.type === 'error') return { ...open, end: 'error', error: { message: step.message, remedy: step.remedy } };
  if (step.type === 'finish') return { ...open, end: step.reason };
  return open;
}

/** @type {() => Promise<string>} the page's own key for this run, '' where none is needed */
let readKey = async () => '';

/** @param {() => Promise<string>} read */
export function takeKeyFrom(read) {
  readKey = read;
}

/** @param {string} baseUrl */
async function answer(baseUrl) {
  const controller = new AbortController();
  const ask = requestMessages(messages.value, systemPrompt.value);
  const started = performance.now();
  let open = message({ role: 'assistant' });
  let chunks = 0;
  let drawn = 0;
  const draw = () => {
    drawn = 0;
    const list = messages.value;
    messages.value = list[list.length - 1]?.id === open.id ? [...list.slice(0, -1), open] : list;
  };
  batch(() => {
    running.value = controller;
    waitingText.value = 'Waiting for the first token';
    messages.value = [...messages.value, open];
  });
  const apiKey = await readKey();
  for await (const step of streamChat({ baseUrl, messages: ask, signal: controller.signal, apiKey })) {
    if (step.type === 'waiting') {
      if (/[a-z]/i.test(step.text)) waitingText.value = step.text;
      continue;
    }
    if (step.type === 'delta') {
      chunks += 1;
      waitingText.value = '';
    }
    open = applyStep(open, step, { elapsed_s: (performance.now() - started) / 1000, chunks });
    drawn ||= requestAnimationFrame(draw); // at most once a frame, however fast tokens come
  }
  cancelAnimationFrame(drawn);
  open = { ...open, end: open.end || (controller.signal.aborted ? 'stopped' : 'stop') };
  batch(() => {
    draw();
    running.value = null;
    waitingText.value = '';
  });
  keep();
}
