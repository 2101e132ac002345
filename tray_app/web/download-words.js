// @ts-check
/** Downloads in words and numbers. Pure. */

import { bytes, clock, integer } from './format.js';

/** @typedef {import('./types.js').Download} Download */
/** @typedef {import('./types.js').Badge} Badge */

const UNFINISHED = new Set(['queued', 'running', 'paused', 'waiting']);

/** @param {Download} d */
export const isUnfinished = (d) => UNFINISHED.has(d.state);

/**
 * As the engine lists them: the unfinished in their order, then the finished, the newest first.
 * @param {Download[]} list
 */
export function inOrder(list) {
  const open = list.filter(isUnfinished).sort((a, b) => a.order - b.order);
  const ended = list.filter((d) => !isUnfinished(d)).sort((a, b) => (b.finished_at ?? 0) - (a.finished_at ?? 0));
  return [...open, ...ended];
}

/**
 * @param {Download} d
 * @param {number} nowS
 * @returns {{tone: 'ok' | 'busy' | 'idle' | 'warn' | 'bad' | 'off', text: string}}
 */
export function stateView(d, nowS) {
  switch (d.state) {
    case 'running': return { tone: 'busy', text: d.step || 'Downloading' };
    case 'queued': return { tone: 'idle', text: 'Waits for its turn' };
    case 'paused': return { tone: 'idle', text: 'Paused' };
    case 'waiting': {
      const left = d.retry_at == null ? '' : `; next try in ${clock(Math.max(0, d.retry_at - nowS))}`;
      return { tone: 'warn', text: `Waits for the network${left}` };
    }
    case 'done': return { tone: 'ok', text: 'In the library' };
    case 'cancelled': return { tone: 'off', text: 'Cancelled' };
    default: return { tone: 'bad', text: 'Failed' };
  }
}

/** How far, how fast, how long: "1.2 GB of 4.9 GB · 24.5 MB/s · 2:31 left". @param {Download} d */
export function progressLine(d) {
  const parts = [];
  if (d.total_bytes != null) parts.push(`${bytes(d.done_bytes)} of ${bytes(d.total_bytes)}`);
  else if (d.done_bytes) parts.push(bytes(d.done_bytes));
  if (d.state === 'running' && d.rate_bytes_s) parts.push(`${bytes(d.rate_bytes_s)}/s`);
  if (d.state === 'running' && d.eta_s != null) parts.push(`${clock(d.eta_s)} left`);
  return parts.join(' · ');
}

/** @param {Download} d @returns {string} "43 %", or nothing when the whole is not known */
export const percent = (d) => (d.total_bytes ? `${Math.min(100, Math.floor((100 * d.done_bytes) / d.total_bytes))} %` : '');

/** What asks before it is cancelled: more than this would have to come again. */
export const ASK_ABOVE_BYTES = 100e6;

/** @param {Download[]} list @returns {{count: number, text: string}} all unfinished ones together */
export function overall(list) {
  const open = list.filter(isUnfinished);
  const moving = open.filter((d) => d.state === 'running' || d.state === 'queued');
  const whole = moving.every((d) => d.total_bytes) ? moving.reduce((sum, d) => sum + (d.total_bytes ?? 0), 0) : 0;
  const done = moving.reduce((sum, d) => sum + d.done_bytes, 0);
  return { count: open.length, text: whole ? `${Math.min(100, Math.floor((100 * done) / whole))} %` : '' };
}

const FITS = {
  gpu: ['ok', 'Fits the GPU'],
  partly: ['warn', 'Partly on the GPU'],
  processor: ['ok', 'Fits'],
  tight: ['warn', 'Tight'],
  too_large: ['bad', 'Too large'],
  unknown: ['plain', 'Not known'],
};

/** @param {Badge} badge @returns {{tone: string, text: string}} */
export function badgeView(badge) {
  const [tone, text] = FITS[badge.fits] ?? FITS.unknown;
  return { tone, text };
}

/** Which of several is worth seeing first. @param {Badge} badge */
export const fitRank = (badge) => Object.keys(FITS).indexOf(badge.fits);

/** 12,345 → "12.3k". @param {number | null | undefined} count */
export function short(count) {
  if (count == null) return '–';
  if (count >= 1e6) return `${(count / 1e6).toFixed(1).replace(/\.0$/, '')}M`;
  if (count >= 1e3) return `${(count / 1e3).toFixed(1).replace(/\.0$/, '')}k`;
  return integer(count);
}
