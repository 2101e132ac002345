// @ts-check
/** Use of models as what the Server page shows: charts, words, slots. Pure. */

import { contextShort, DASH, day, integer, plural, speed } from './format.js';

/** @typedef {import('./types.js').Usage} Usage */
/** @typedef {import('./types.js').ModelUsage} ModelUsage */
/** @typedef {import('./types.js').UsageBucket} UsageBucket */
/** @typedef {import('./types.js').Slot} Slot */
/** @typedef {{value: number | null, title: string}} Bar */

const MOST_BARS = 100;
export const MOST_SLOTS = 8; // as many bars as can be told apart beside a model

/**
 * One bar for each hour or day of the span, those without a request included.
 * @param {Usage} usage
 * @param {ModelUsage} model
 * @param {(bucket: UsageBucket) => number | null} valueOf
 * @param {(value: number) => string} words
 * @returns {Bar[]}
 */
export function bars(usage, model, valueOf, words) {
  const { from_at: from, until_at: until, bucket_s: step } = usage;
  const number = Math.max(1, Math.min(MOST_BARS, Math.floor((until - from) / step + 1e-6) + 1));
  // Where clocks change, a day is an hour longer or shorter: the nearest one is meant.
  const known = new Map(model.buckets.map((bucket) => [Math.round((bucket.start_at - from) / step), bucket]));
  return Array.from({ length: number }, (_, i) => {
    const bucket = known.get(i);
    const value = bucket ? valueOf(bucket) : null;
    return { value, title: `${timeOf(bucket?.start_at ?? from + i * step, step)}: ${value == null ? 'none' : words(value)}` };
  });
}

/** @param {number} at @param {number} step */
const timeOf = (at, step) => (step < 86400
  ? new Date(at * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' }) : day(at));

/**
 * What a chart says to those who do not see it.
 * @param {string} what e.g. "Speed by the hour"
 * @param {Bar[]} list
 * @param {(value: number) => string} words
 */
export function chartLabel(what, list, words) {
  const values = list.flatMap(({ value }) => (value == null ? [] : [value]));
  if (!values.length) return `${what}: nothing yet`;
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? `${what}: ${words(most)}` : `${what}: ${words(least)} to ${words(most)}`;
}

/**
 * Heights of bars between 0 and 1; the smallest that is not zero can still be seen.
 * @param {Bar[]} list
 * @returns {number[]}
 */
export function heights(list) {
  const most = Math.max(0, ...list.map(({ value }) => value ?? 0));
  return list.map(({ value }) => (most > 0 && value ? Math.max(0.08, value / most) : 0));
}

/** @param {ModelUsage} model e.g. "1,204 read (90 % from the cache), 340 written; the longest took 512" */
export function tokensWords(model) {
  const part = model.prompt_tokens > 0 ? Math.round((100 * model.cached_tokens) / model.prompt_tokens) : 0;
  const longest = model.longest_tokens ? `; the longest request took ${integer(model.longest_tokens)}` : '';
  return `${integer(model.prompt_tokens)} read${part ? ` (${part} % from the cache)` : ''}, ${integer(model.generated_tokens)} written${longest}`;
}

/** @param {number | null} rate a speed without its unit, for a column that names it */
export const rate = (rate) => (rate == null ? DASH : speed(rate).replace(' tokens/s', ''));

/**
 * What the kept requests do not reach back to.
 * @param {Usage} usage
 * @param {number} kept how many requests are kept at most
 */
export function keptWords(usage, kept = 10_000) {
  const total = usage.models.reduce((sum, model) => sum + model.requests, 0);
  if (usage.kept_from_at == null || total < kept) return '';
  return `The last ${integer(kept)} requests are kept: since ${day(usage.kept_from_at)}.`;
}

/**
 * @param {Slot[]} slots
 * @returns {{text: string, bars: {id: number, part: number, busy: boolean, label: string}[]} | null}
 */
export function slotsView(slots) {
  const known = slots.filter((slot) => slot.context_length > 0);
  if (!known.length) return null;
  const busy = known.filter((slot) => slot.busy).length;
  const fullest = known.reduce((most, slot) => (slot.context_used > most.context_used ? slot : most));
  const places = known.length === 1 ? (busy ? 'answering' : 'at rest') : `${busy} of ${plural(known.length, 'slot')} busy`;
  // The fullest first where not all can be shown; otherwise in their own order, so that none jumps.
  const shown = known.length <= MOST_SLOTS ? known
    : [...known].sort((a, b) => Number(b.busy) - Number(a.busy) || b.context_used - a.context_used).slice(0, MOST_SLOTS);
  return {
    text: `${places} · ${integer(fullest.context_used)} of ${contextShort(fullest.context_length)} context used`,
    bars: shown.map((slot) => ({
      id: slot.id,
      part: Math.min(1, slot.context_used / slot.context_length),
      busy: slot.busy,
      label: `Slot ${slot.id + 1}: ${slot.busy ? 'busy' : 'free'}, ${integer(slot.context_used)} of ${integer(slot.context_length)} tokens`,
    })),
  };
}
