// @ts-check
/** Log text as lines with a level. Pure. */

/** @typedef {{id: number, text: string, level: '' | 'error' | 'warning' | 'debug'}} LogLine '' is the usual: info */
/** @typedef {{lines: LogLine[], rest: string, next: number, last: LogLine['level'] | null}} Log `last`: of the last line that told its own */
/** @typedef {'all' | 'info' | 'warning' | 'error'} Least */

export const MOST_LINES = 5000; // what the viewer keeps; the file has the rest

/** @param {string} word @returns {LogLine['level']} */
function levelOf(word) {
  const upper = word.toUpperCase();
  if (upper === 'E' || upper === 'ERROR' || upper === 'CRITICAL' || upper === 'FATAL') return 'error';
  if (upper === 'W' || upper === 'WARN' || upper === 'WARNING') return 'warning';
  return upper === 'D' || upper === 'DEBUG' ? 'debug' : '';
}

/**
 * @param {string} line
 * @returns {Omit<LogLine, 'id'> & {own: boolean}} `own`: the line tells its level itself
 */
export function readLine(line) {
  if (line.startsWith('{')) {
    const entry = readJson(line);
    if (entry) return { ...entry, own: true };
  }
  const text = line.replace(/\x1b\[[0-9;]*[A-Za-z]/g, '').slice(0, 2000);
  const prefix = text.match(/^[\d.:T -]{4,30} ([EWID]) /); // llama-server --log-prefix
  if (prefix) return { text, level: levelOf(prefix[1]), own: true };
  const word = text.slice(0, 200).match(/\b(error|fatal|critical|warn|warning|failed)\b(?![-_.])/i)?.[1] ?? '';
  return { text, level: levelOf(word.toLowerCase() === 'failed' ? 'error' : word), own: false };
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
 * In a log whose lines tell their level, one that does not goes on with the line before it: the
 * stack of an error is part of the error.
 * @param {Log} state
 * @param {string} text
 * @returns {Log}
 */
export function addText(state, text) {
  const parts = (state.rest + text).split(/\r?\n/);
  const rest = parts.pop() ?? '';
  let { next, last } = state;
  const added = parts.map((line) => {
    const { text: words, level, own } = readLine(line);
    if (own) last = level;
    return { id: next++, text: words, level: own ? level : level || (last ?? '') };
  });
  const lines = added.length ? [...state.lines, ...added].slice(-MOST_LINES) : state.lines;
  return { lines, rest, next, last };
}

/** @returns {Log} */
export const emptyLog = () => ({ lines: [], rest: '', next: 0, last: null });

const RANKS = { debug: 0, '': 1, warning: 2, error: 3 };
const LEAST = { all: 0, info: 1, warning: 2, error: 3 };

/**
 * The lines that are at least so grave and hold what is searched, in any case of letters.
 * @param {LogLine[]} lines
 * @param {string} query
 * @param {Least} least
 */
export function chosenLines(lines, query, least) {
  const needle = query.trim().toLowerCase();
  if (!needle && least === 'all') return lines;
  return lines.filter((line) => RANKS[line.level] >= LEAST[least] && (!needle || line.text.toLowerCase().includes(needle)));
}

/** @param {LogLine[]} lines how many there are of what one looks for */
export function graveCounts(lines) {
  let [warnings, errors] = [0, 0];
  for (const { level } of lines) {
    if (level === 'warning') warnings += 1;
    else if (level === 'error') errors += 1;
  }
  return { warnings, errors };
}

/**
 * A line in pieces: those at odd places are what was searched.
 * @param {string} text
 * @param {string} query
 * @returns {string[]}
 */
export function marked(text, query) {
  const needle = query.trim().toLowerCase();
  const lower = text.toLowerCase();
  // Some letters have another length in lower case: places would not fit.
  if (!needle || lower.length !== text.length) return [text];
  const pieces = [];
  let from = 0;
  for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
    pieces.push(text.slice(from, at), text.slice(at, at + needle.length));
    from = at + needle.length;
  }
  return [...pieces, text.slice(from)];
}
