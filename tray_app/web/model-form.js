// @ts-check
/** A model's own settings as a form: which fields there are, and their way to the engine and back. */

import { bytes, integer, joinArgs, numberOrText, splitArgs } from './format.js';

/**
 * @typedef {object} Wish
 * @property {string} key the engine's name of the setting
 * @property {string} label
 * @property {'number' | 'minutes' | 'text' | 'choice' | 'draft' | 'adapters'} kind
 * @property {string} [unit]
 * @property {string} [hint]
 * @property {[string, string][]} [options] of a choice
 * @property {string} [empty] what an empty field means, when the engine has no value to show
 */

/** The engine's list; f16 is what llama-server does by itself. */
const KV_TYPES = ['f32', 'f16', 'bf16', 'q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0', 'iq4_nl'];
/** @type {[string, string][]} */
const ON_OFF = [['', 'Automatic'], ['on', 'On'], ['off', 'Off']];

/** @type {Wish[]} */
export const MEMORY = [
  { key: 'context_length', label: 'Context length', kind: 'number', unit: 'tokens', hint: 'How much text it can keep in view. More takes more memory.' },
  { key: 'gpu_layers', label: 'GPU layers', kind: 'number', unit: 'layers', hint: 'Empty: as many as fit.' },
  { key: 'threads', label: 'Threads', kind: 'number', hint: 'Empty: llama.cpp decides.' },
  { key: 'parallel', label: 'Requests at once', kind: 'number', unit: 'slots', hint: 'Empty: llama.cpp decides.' },
];

/** @type {Wish[]} */
export const ANSWERS = [
  { key: 'temperature', label: 'Temperature', kind: 'number', hint: 'Higher is more varied. These hold where a request does not say.' },
  { key: 'max_tokens', label: 'Longest answer', kind: 'number', unit: 'tokens', empty: 'no limit' },
  { key: 'top_p', label: 'Top P', kind: 'number' },
  { key: 'top_k', label: 'Top K', kind: 'number', unit: 'tokens' },
  { key: 'min_p', label: 'Min P', kind: 'number' },
  { key: 'repeat_penalty', label: 'Repeat penalty', kind: 'number', hint: '1 is off.' },
  { key: 'reasoning', label: 'Reasoning', kind: 'choice', options: ON_OFF, hint: 'Whether it thinks before it answers, if it can.' },
  { key: 'chat_template', label: 'Chat template', kind: 'text', empty: 'the model’s own', hint: 'A name that llama.cpp knows, or a .jinja file.' },
];

/** @type {Wish[]} */
export const KEEPING = [
  { key: 'idle_unload_s', label: 'Unload when idle for', kind: 'minutes', unit: 'minutes', hint: '0: never. Empty: as the server’s setting.' },
];

/** @type {Wish[]} */
export const EXPERT = [
  { key: 'kv_cache_type', label: 'KV cache', kind: 'choice', options: [['', 'Automatic (F16)'], ...KV_TYPES.map((t) => /** @type {[string, string]} */ ([t, t.toUpperCase()]))], hint: 'Q8_0 halves its memory; below that answers suffer.' },
  { key: 'flash_attention', label: 'Flash attention', kind: 'choice', options: ON_OFF },
  { key: 'batch_size', label: 'Batch', kind: 'number', unit: 'tokens' },
  { key: 'ubatch_size', label: 'Physical batch', kind: 'number', unit: 'tokens', hint: 'Larger reads prompts faster and takes more memory.' },
  { key: 'draft_model', label: 'Draft model', kind: 'draft', hint: 'A small model of the same family that guesses ahead: faster, the same answers.' },
  { key: 'mmproj_path', label: 'Projector', kind: 'text', empty: 'the one beside it', hint: 'A file (mmproj) with which it reads images.' },
  { key: 'lora', label: 'LoRA adapters', kind: 'adapters', hint: 'One file a line; a scale may follow after “ = ”.' },
];

const ALL = [...MEMORY, ...ANSWERS, ...KEEPING, ...EXPERT];
export const NAMED = ALL.map((wish) => wish.key);

/** @param {Record<string, number>} lora @returns {string} */
const adaptersText = (lora) => Object.entries(lora).map(([path, scale]) => (scale === 1 ? path : `${path} = ${scale}`)).join('\n');

/**
 * What is no number after the last “ = ” belongs to the path.
 * @param {string} text @returns {Record<string, number>}
 */
export function adaptersOf(text) {
  /** @type {Record<string, number>} */
  const lora = {};
  for (const line of text.split('\n')) {
    const bare = line.trim();
    const found = /^(.*\S)\s+=\s+(-?\d+(?:\.\d+)?)$/.exec(bare);
    if (found) lora[found[1]] = Number(found[2]);
    else if (bare) lora[bare] = 1;
  }
  return lora;
}

/** @param {string} text @returns {number | string | null} seconds; the engine judges what is no number */
export function secondsOf(text) {
  const bare = text.trim().replace(',', '.');
  if (bare === '') return null;
  return Number.isFinite(Number(bare)) ? Math.round(Number(bare) * 60) : bare;
}

/** @param {number | null | undefined} seconds @returns {string} */
export const minutesText = (seconds) => (seconds == null ? '' : String(Number((seconds / 60).toFixed(2))));

/** @param {any} own the model's own table @returns {Record<string, any>} what every field shows */
export function toForm(own) {
  /** @type {Record<string, any>} */
  const form = {
    extra_args: joinArgs(own.extra_args ?? []),
    system_prompt: own.system_prompt ?? '',
    mmproj: own.mmproj ?? true,
    never_keep: own.never_keep ?? false,
    runtime: own.runtime ?? '',
  };
  for (const { key, kind } of ALL) {
    if (kind === 'adapters') form[key] = adaptersText(own[key] ?? {});
    else if (kind === 'minutes') form[key] = minutesText(own[key]);
    else form[key] = own[key] == null ? '' : String(own[key]);
  }
  return form;
}

/** @param {string} key @param {any} value of its field @returns {any} of its setting; null takes a wish back */
function settingOf(key, value) {
  const kind = ALL.find((wish) => wish.key === key)?.kind;
  if (kind === 'number') return numberOrText(value);
  if (kind === 'minutes') return secondsOf(value);
  if (kind === 'adapters') return adaptersOf(value);
  if (key === 'extra_args') return splitArgs(value);
  return typeof value === 'string' && value.trim() === '' ? null : value;
}

/**
 * @param {Record<string, any>} form
 * @param {Record<string, any>} before
 * @returns {Record<string, any>} only what changed
 */
export function changesOf(form, before) {
  const changed = Object.entries(form).filter(([key, value]) => value !== before[key]);
  return Object.fromEntries(changed.map(([key, value]) => [key, settingOf(key, value)]));
}

/** @param {import('./types.js').ModelMemory} told @returns {string} one line: the sum, its parts, and whether it fits */
export function memoryWords(told) {
  const parts = [
    [told.weights_bytes, 'weights'], [told.kv_cache_bytes, 'KV cache'], [told.compute_bytes, 'compute'], [told.beside_bytes, 'further files'],
  ].filter(([size]) => size).map(([size, name]) => `${name} ${bytes(/** @type {number} */ (size))}`);
  const context = told.context_length < told.context_wished
    ? ` The context comes to ${integer(told.context_length)} of ${integer(told.context_wished)} tokens.` : '';
  const over = told.total_bytes > told.budget_bytes ? ` That is more than models may hold now, ${bytes(told.budget_bytes)}.` : '';
  return `${told.measured ? 'Takes' : 'Takes about'} ${bytes(told.total_bytes)}: ${parts.join(', ')}.${context}${over}`;
}
