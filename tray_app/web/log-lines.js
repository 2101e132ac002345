// @ts-check
/** Log text as lines with a level. Pure. */

/** @typedef {{id: number, text: string, level: '' | 'error' | 'warning' | 'debug'}} LogLine */

export const MOST_LINES = 5000; // what the viewer keeps; the file has the rest

/** @param {string} word @returns {LogLine['level']} */
function levelOf(word) {
  const upper = word.toUpperCase();
  if (upper === 'E' || upper === 'ERROR' || upper === 'CRITICAL' || upper === 'FATAL') return 'error';
  if (upper === 'W' || upper === 'WARN' || upper === 'WARNING') return 'warning';
  return upper === 'D' || upper === 'DEBUG' ? 'debug' : '';
}

/** @param {string} line @returns {Omit<LogLine, 'id'>} */
export function readLine(line) {
  if (line.startsWith('{')) {
    const entry = readJson(line);
    if (entry) return entry;
  }
  const text = line.replace(/\x1b\[[0-9;]*[A-Za-z]/g, '').slice(0, 2000);
  const prefix = text.match(/^[\d.:T -]{4,30} ([EWID]) /); // llama-server --log-prefix
  if (prefix) return { text, level: levelOf(prefix[1]) };
  const word = text.slice(0, 200).match(/\b(error|fatal|critical|warn|warning|failed)\b(?![-_.])/i)?.[1] ?? '';
  return { text, level: levelOf(word.toLowerCase() === 'failed' ? 'error' : word) };
}

/** @param {string} line a JSON line of the engine's own log @returns {Omit<LogLine, 'id'> | null} */
function readJson(line) {
  let data;
  try {
    data = JSON.parse(line);
  } catch {
    return null;
  }
  const { level = '', message = data.msg ?? '', time = data.ts ?? data.at ?? '', logger = data.name ?? '', ...rest } = data;
  const at = typeof time === 'number' ? new Date(time * 1000).toISOString().slice(11, 23) : String(time).slice(11, 23) || String(time);
  const more = Object.entries(rest)
    .filter(([key]) => !['msg', 'ts', 'at', 'name'].includes(key))
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`);
  const text = [at, String(level).toUpperCase(), logger, message, ...more].filter(Boolean).join('  ').replace(/\s*\n\s*/g, ' ⏎ ');
  return { text: text.slice(0, 2000), level: levelOf(String(level)) };
}

/**
 * Adds a piece of text; its last line may still be growing and is replaced when more comes.
 * @param {{lines: LogLine[], rest: string, next: number}} state
 * @param {string} text
 */
export function addText(state, text) {
  const parts = (state.rest + text).split(/\r?\n/);
  const rest = parts.pop() ?? '';
  let next = state.next;
  const added = parts.map((line) => ({ id: next++, ...readLine(line) }));
  const lines = added.length ? [...state.lines, ...added].slice(-MOST_LINES) : state.lines;
  return { lines, rest, next };
}

export const emptyLog = () => ({ lines: /** @type {LogLine[]} */ ([]), rest: '', next: 0 });
