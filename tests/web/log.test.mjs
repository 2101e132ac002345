import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addText, chosenLines, emptyLog, graveCounts, marked, MOST_LINES, readLine } from '../../tray_app/web/log-lines.js';

// As llama-server b11434 writes them, and as our engine does.
const CHILD = [
  '0.00.007.104 I srv    load_model: loading model \'/m/failed-experiment.gguf\'',
  '0.00.005.392 W srv  llama_server: security: no API key is set',
  '0.00.467.138 D slot   operator(): n_past was set to 40',
  '0.01.000.000 E srv    load_model: failed to open the file',
  '  #1 0x00007f in llama_load ()',
  '  #2 0x00007f in main ()',
  '0.01.000.100 I srv    main: an error_count of 0',
];
const ENGINE = [
  { time: '2026-01-02T10:00:01.250Z', level: 'info', logger: 'daemon', message: 'engine started', mode: 'serve' },
  { time: '2026-01-02T10:00:02.250Z', level: 'warning', logger: 'engine.residency', message: 'load failed: no memory', model: 'org/m:Q4' },
  { time: '2026-01-02T10:00:03.250Z', level: 'error', logger: 'engine.core', message: 'it failed', traceback: 'Traceback\n  File' },
];
const log = (lines) => addText(emptyLog(), `${lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n')}\n`);
const levels = (state) => state.lines.map((line) => line.level);
const chosen = (state, query, least) => chosenLines(state.lines, query, least).map((line) => line.text);

test('a log line is read with its level', () => {
  assert.equal(readLine('0.00.123.456 W srv load: slow').level, 'warning');
  assert.equal(readLine('0.00.123.456 I error_count = 0').level, '');
  assert.equal(readLine('main: error: cannot open').level, 'error');
  const json = readLine('{"time":"2026-01-02T10:00:01.250Z","level":"ERROR","logger":"engine","message":"a\\nb","model":"x"}');
  assert.deepEqual(json, { text: '10:00:01.250  ERROR  engine  a ⏎ b  model=x', level: 'error', own: true });
  assert.equal(readLine('{broken').text, '{broken');
  assert.equal(readLine('\x1b[31m0.00.123.456 E red\x1b[0m').text, '0.00.123.456 E red');
});

test('a log grows by whole lines and forgets its oldest', () => {
  let state = addText(emptyLog(), 'a\nb');
  assert.deepEqual(state.lines.map((l) => l.text), ['a']);
  state = addText(state, 'c\r\n');
  assert.deepEqual(state.lines.map((l) => l.text), ['a', 'bc']);
  state = addText(state, 'x\n'.repeat(MOST_LINES + 10));
  assert.equal(state.lines.length, MOST_LINES);
  assert.equal(new Set(state.lines.map((l) => l.id)).size, MOST_LINES);
});

test('a line without a level of its own goes on with the one before it', () => {
  assert.deepEqual(levels(log(CHILD)), ['', 'warning', 'debug', 'error', 'error', 'error', '']);
  // Also when it comes later.
  const later = addText(log(CHILD.slice(0, 4)), '  #1 0x00007f in main ()\n');
  assert.equal(later.lines.at(-1).level, 'error');
  // A compiler's log tells no levels: each line stands for itself.
  assert.deepEqual(levels(log(['a.c:1: error: no', 'int main()', 'ninja: build stopped'])), ['error', '', '']);
  // What a dying child writes past its log is found, whatever came before.
  assert.equal(log([...CHILD, 'GGML_ASSERT(n > 0) failed']).lines.at(-1).level, 'error');
});

test('levels can be chosen in the logs of llama-server and of the engine', () => {
  const child = log(CHILD);
  assert.equal(chosenLines(child.lines, '', 'all'), child.lines);
  assert.equal(chosen(child, '', 'info').length, 6);
  assert.equal(chosen(child, '', 'warning').length, 4);
  assert.deepEqual(chosen(child, '', 'error'), CHILD.slice(3, 6));
  assert.deepEqual(graveCounts(child.lines), { warnings: 1, errors: 3 });
  const engine = log(ENGINE);
  assert.deepEqual(chosen(engine, '', 'error'), ['10:00:03.250  ERROR  engine.core  it failed  traceback=Traceback ⏎ File']);
  assert.deepEqual(graveCounts(engine.lines), { warnings: 1, errors: 1 });
});

test('a search holds for the chosen levels and for any case of letters', () => {
  const child = log(CHILD);
  assert.equal(chosen(child, ' LOAD_model: ', 'all').length, 2);
  assert.deepEqual(chosen(child, 'load_model:', 'error'), [CHILD[3]]);
  assert.deepEqual(chosen(child, '.*', 'all'), []);
  assert.deepEqual(chosen(log(ENGINE), 'org/m:q4', 'warning').length, 1);
});

test('what was found is marked, and nothing of the line is lost', () => {
  assert.deepEqual(marked('Error: no ERROR here', 'error'), ['', 'Error', ': no ', 'ERROR', ' here']);
  assert.deepEqual(marked('aaa', 'aa'), ['', 'aa', 'a']);
  assert.deepEqual(marked('plain', 'x'), ['plain']);
  assert.deepEqual(marked('plain', '  '), ['plain']);
  assert.equal(marked('İstanbul said no', 'said').join(''), 'İstanbul said no'); // longer in lower case
  for (const text of ['<b>bold</b>', 'a'.repeat(3000)]) assert.equal(marked(text, 'b').join(''), text);
});
