// @ts-check
/** Values as words for people. Pure; `null` always means "not known" and shows as a dash. */

/** @typedef {import('./types.js').Model} Model */
/** @typedef {import('./types.js').ModelStatus} ModelStatus */

export const DASH = '–';

/**
 * Sizes in powers of 1000, as drives and Hugging Face count them.
 * @param {number | null | undefined} count
 */
export function bytes(count) {
  if (count == null || !Number.isFinite(count)) return DASH;
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = Math.max(0, count);
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** @param {number | null | undefined} count */
export function integer(count) {
  return count == null || !Number.isFinite(count) ? DASH : Math.round(count).toLocaleString('en-US');
}

/**
 * Large counts at a glance: 9,204, 120k, 1.2M.
 * @param {number | null | undefined} count
 */
export function countShort(count) {
  if (count == null || !Number.isFinite(count) || count < 10_000) return integer(count);
  if (count < 999_500) return `${Math.round(count / 1000)}k`;
  return count < 999.5e6 ? `${trim(count / 1e6)}M` : `${trim(count / 1e9)}B`;
}

/**
 * Context lengths, which are powers of two: 8192 is "8k", 131072 is "128k".
 * @param {number | null | undefined} tokens
 */
export function contextShort(tokens) {
  if (tokens == null) return DASH;
  if (tokens < 1024) return String(tokens);
  if (tokens >= 1024 * 1024) return `${trim(tokens / 1048576)}M`;
  return `${trim(tokens / 1024)}k`;
}

/** @param {number} value */
const trim = (value) => (value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1));

/** @param {Pick<Model, 'size_label' | 'parameter_count'>} model */
export function parameters(model) {
  if (model.parameter_count == null) return model.size_label || DASH;
  const n = model.parameter_count;
  if (n >= 999.5e6) return `${trimOne(n / 1e9)}B`;
  return n >= 1e6 ? `${Math.round(n / 1e6)}M` : integer(n);
}

/** @param {number} value */
const trimOne = (value) => (value >= 100 ? String(Math.round(value)) : value.toFixed(1).replace(/\.0$/, ''));

/**
 * A running clock: 0:07, 12:30, 1:02:03.
 * @param {number | null | undefined} seconds
 */
export function clock(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return DASH;
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (/** @type {number} */ n) => String(n).padStart(2, '0');
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/**
 * A measured duration: 85 ms, 3.2 s, 4 min 10 s.
 * @param {number | null | undefined} seconds
 */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return DASH;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

/**
 * @param {number | null | undefined} at Unix seconds
 * @param {number} nowS
 */
export function ago(at, nowS) {
  if (at == null) return DASH;
  const past = Math.max(0, nowS - at);
  if (past < 5) return 'just now';
  if (past < 60) return `${Math.floor(past)} s ago`;
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`;
  const days = Math.floor(past / 86400);
  return days === 1 ? 'yesterday' : `${days} days ago`;
}

/**
 * A date without its time: 12 Jan 2026.
 * @param {number | null | undefined} at Unix seconds
 */
export function day(at) {
  if (at == null || !Number.isFinite(at)) return DASH;
  return new Date(at * 1000).toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year: 'numeric' });
}

/** @param {number | null | undefined} rate tokens per second */
export function speed(rate) {
  if (rate == null || !Number.isFinite(rate)) return DASH;
  return `${rate >= 100 ? Math.round(rate) : rate.toFixed(1)} tokens/s`;
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export const plural = (count, one, many = `${one}s`) => `${integer(count)} ${count === 1 ? one : many}`;

const QUANT_QUALITY = [
  [1.9, 'It is very small and clearly less accurate: for when nothing larger fits.'],
  [2.9, 'It saves much memory at a clear loss of quality.'],
  [3.9, 'It saves memory at a noticeable loss of quality.'],
  [4.9, 'It is the usual balance of size and quality.'],
  [5.9, 'It stays close to the original quality at a moderate size.'],
  [6.9, 'It is very close to the original quality.'],
  [8.9, 'It is practically as good as the original.'],
];

/**
 * One plain sentence or two on what a quantization name means.
 * @param {string | null | undefined} name e.g. "Q4_K_M"
 */
export function quantizationHint(name) {
  if (!name) return 'How the weights are stored is not known yet.';
  const upper = name.toUpperCase();
  if (/^(F32|BF16|F16)$/.test(upper)) {
    const bits = upper === 'F32' ? 32 : 16;
    return `Weights are stored at their full ${bits} bits: the best quality and the largest size.`;
  }
  if (upper.includes('MXFP4')) return 'Weights take about 4 bits each in blocks: the form gpt-oss was trained for.';
  const bits = Number(upper.match(/^(?:IQ|TQ|Q)(\d)/)?.[1]);
  if (!bits) return `Weights are stored as ${name}.`;
  const quality = QUANT_QUALITY.find(([most]) => bits <= Number(most))?.[1] ?? '';
  return `Weights take about ${bits} bits each instead of 16. ${quality}`.trim();
}

/** @param {Model['kind']} kind */
export function kindHint(kind) {
  return {
    chat: 'Made for conversation: it carries a chat template.',
    completion: 'Continues text; it carries no chat template.',
    embedding: 'Turns text into vectors for search; it does not chat.',
    unknown: 'The file has not been read fully yet.',
  }[kind];
}

/**
 * @typedef {object} StatusView
 * @property {'off' | 'idle' | 'busy' | 'ok' | 'warn' | 'bad'} tone
 * @property {string} text
 */

/**
 * What a model is doing, in a few words.
 * @param {Pick<Model, 'available'>} model
 * @param {ModelStatus} status
 * @param {number} nowS
 * @returns {StatusView}
 */
export function statusView(model, status, nowS) {
  const queued = status.waiting ? `, ${status.waiting} waiting` : '';
  switch (status.state) {
    case 'loading': return { tone: 'busy', text: 'Loading' };
    case 'waiting': return { tone: 'warn', text: 'Waiting for memory' };
    case 'stopping': return { tone: 'busy', text: 'Unloading' };
    case 'failed': return { tone: 'bad', text: 'Failed' };
    case 'backoff': {
      const left = status.retry_at == null ? null : Math.max(0, Math.ceil(status.retry_at - nowS));
      return { tone: 'warn', text: left ? `Trying again in ${left} s` : 'Trying again' };
    }
    case 'ready':
      return status.in_flight
        ? { tone: 'ok', text: `Answering ${plural(status.in_flight, 'request')}${queued}` }
        : { tone: 'ok', text: 'Ready' };
    default:
      return model.available ? { tone: 'idle', text: '' } : { tone: 'off', text: 'File not reachable' };
  }
}

/**
 * The state of the model in use, for a place that shows its name already.
 * @param {Pick<Model, 'available'>} model
 * @param {ModelStatus} status
 * @param {number} running requests that any model answers now
 */
export function activeText(model, status, running) {
  switch (status.state) {
    case 'waiting': return running ? `Loads when ${plural(running, 'request')} ${running === 1 ? 'has' : 'have'} ended` : 'Making room…';
    case 'loading': return 'Loading…';
    case 'backoff': return 'Ended; starting it again…';
    case 'failed': return status.error ? `Failed: ${status.error.message}` : 'Failed';
    default:
  }
  if (status.in_flight) return `Answering ${plural(status.in_flight, 'request')}`;
  if (status.state === 'ready') return 'Ready';
  if (status.state === 'stopping') return 'Unloading…';
  return model.available ? 'Loads on first request' : 'File not reachable';
}

/**
 * Memory a model would take: weights plus an F16 KV cache. The engine's own figure, when it
 * has one, is better.
 * @param {Model} model
 * @param {number} contextLength tokens
 */
export function memoryEstimate(model, contextLength) {
  if (model.kv_bytes_per_token == null) return model.size_bytes;
  return model.size_bytes + model.kv_bytes_per_token * contextLength;
}

/**
 * Splits a line of arguments the way a shell would, quotes included; never runs one.
 * @param {string} line
 * @returns {string[]}
 */
export function splitArgs(line) {
  const words = [];
  const pattern = /"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s"']+)/g;
  let end = -1;
  for (const match of line.matchAll(pattern)) {
    const word = match[1]?.replace(/\\(.)/g, '$1') ?? match[2] ?? match[3];
    if (match.index === end) words[words.length - 1] += word; // --key="a b" is one word
    else words.push(word);
    end = match.index + match[0].length;
  }
  return words;
}

/** @param {string[]} words @returns {string} a line that splitArgs reads back */
export function joinArgs(words) {
  return words
    .map((word) => (/^[^\s"']+$/.test(word) ? word : `"${word.replace(/[\\"]/g, '\\$&')}"`))
    .join(' ');
}

/** @param {string} path @returns {string} its last part */
export const baseName = (path) => path.split(/[\\/]/).filter(Boolean).pop() ?? path;

/**
 * @param {number} done
 * @param {number | null} total
 * @param {string} unit
 */
export function progressText(done, total, unit) {
  if (unit === 'percent') return `${integer(done)} %`;
  const show = unit === 'bytes' ? bytes : integer;
  const word = unit && unit !== 'bytes' ? ` ${unit}` : '';
  return total == null ? `${show(done)}${word}` : `${show(done)} of ${show(total)}${word}`;
}

/** @param {string} text @returns {number | string | null} a number when it is one; the engine judges the rest */
export function numberOrText(text) {
  const bare = text.trim();
  if (bare === '') return null;
  return /^-?\d+(?:\.\d+)?$/.test(bare) ? Number(bare) : bare;
}
