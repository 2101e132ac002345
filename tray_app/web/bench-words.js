// @ts-check
/** Measured speeds as what a model's details show. Pure. */

import { DASH, day, integer } from './format.js';
import { rate } from './usage-words.js';

/** @typedef {import('./types.js').BenchRun} BenchRun */
/** @typedef {import('./types.js').BenchSpeed} BenchSpeed */
/** @typedef {import('./types.js').Against} Against */
/** @typedef {import('./types.js').ModelBench} ModelBench */

const BUSY_PERCENT = 20; // of the processor: from here on it is told
const SAME = 0.02; // what two measurements of the same differ by, on a machine at rest

/** @param {BenchSpeed | null} speed e.g. "466 ± 1 %" */
export function speedWords(speed) {
  if (!speed) return DASH;
  const { tokens_per_s: mean, stddev_per_s: spread } = speed;
  const part = spread == null || !(mean > 0) ? null : (100 * spread) / mean;
  return part == null ? rate(mean) : `${rate(mean)} ± ${part >= 9.5 ? Math.round(part) : part.toFixed(1)} %`;
}

/**
 * How far two speeds may be apart by chance: twice what their repetitions varied together.
 * @param {BenchSpeed | null | undefined} one
 * @param {BenchSpeed | null | undefined} other
 */
export function noiseOf(one, other) {
  const parts = [one, other].map((speed) => (speed && speed.tokens_per_s > 0 ? (speed.stddev_per_s ?? 0) / speed.tokens_per_s : 0));
  return Math.max(SAME, 2 * Math.hypot(...parts));
}

/**
 * A ratio as a difference people read: "12 % faster".
 * @param {number | null | undefined} ratio
 * @param {number} [noise] a part of 1; less than that is no difference
 * @returns {{text: string, tone: 'ok' | 'bad' | 'plain'}}
 */
export function ratioWords(ratio, noise = SAME) {
  if (ratio == null || !Number.isFinite(ratio) || ratio <= 0) return { text: DASH, tone: 'plain' };
  if (Math.abs(ratio - 1) < noise) return { text: 'the same', tone: 'plain' };
  if (ratio >= 2) return { text: `${ratio.toFixed(1)}× as fast`, tone: 'ok' };
  const part = Math.max(1, Math.round(100 * Math.abs(ratio - 1)));
  return ratio > 1 ? { text: `${part} % faster`, tone: 'ok' } : { text: `${part} % slower`, tone: 'bad' };
}

/**
 * The rows of the table, one for each test that was made.
 * @param {ModelBench} bench
 */
export function rowsOf({ newest, previous }) {
  /** @type {[string, number, 'prompt' | 'generation'][]} */
  const tests = [
    ['Reading a prompt', newest.prompt_tokens, 'prompt'], ['Writing', newest.generated_tokens, 'generation'],
  ];
  return tests.filter(([, , key]) => newest[key]).map(([name, tokens, key]) => ({
    key,
    name,
    title: `${integer(tokens)} tokens, ${newest.repetitions} times`,
    now: speedWords(newest[key]),
    before: previous ? rate(previous.run[key]?.tokens_per_s ?? null) : DASH,
    ratio: ratioWords(previous?.[`${key}_ratio`], noiseOf(newest[key], previous?.run[key])),
  }));
}

/** @param {BenchRun} run e.g. "on AMD EPYC, b11434-cpu" */
export const whereWords = (run) => `on ${[run.device, run.runtime_id].filter(Boolean).join(', ')}`;

/** What is different from the measurement before. @param {Against | null} previous */
export function sinceWords(previous) {
  if (!previous) return '';
  const at = day(previous.run.measured_at);
  return previous.changes.length ? `Since ${at}: ${previous.changes.join('; ')}.` : `Since ${at} nothing was changed.`;
}

/**
 * What has to be known to read a measurement rightly.
 * @param {BenchRun} run
 * @param {(id: string) => string} nameOf
 */
export function notesOf(run, nameOf) {
  const found = [];
  if (run.in_memory.length) found.push(`In memory meanwhile, idle: ${run.in_memory.map(nameOf).join(', ')}.`);
  if ((run.busy_percent ?? 0) >= BUSY_PERCENT) found.push(`Other programs used ${Math.round(run.busy_percent ?? 0)} % of the processor.`);
  if (run.left_out.length) found.push(`Measured without ${run.left_out.join(', ')}.`);
  return found;
}

/** How the newest compares with another runtime, in words. @param {Against} other */
export function againstWords(other) {
  const said = [['reading', other.prompt_ratio], ['writing', other.generation_ratio]]
    .filter(([, ratio]) => ratio != null)
    .map(([what, ratio]) => `${what} ${ratioWords(/** @type {number} */ (ratio)).text}`);
  return `Against ${other.run.runtime_id}: ${said.join(', ') || 'nothing in common'}.`;
}
