// Measured speeds in words, and what the card does with what the engine says.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { againstWords, noiseOf, notesOf, ratioWords, rowsOf, sinceWords, speedWords, whereWords } from '../../tray_app/web/bench-words.js';
import { bench, QWEN, SMOL } from './fixture_data.mjs';

const [known] = bench(SMOL.id).models;

test('a speed is told with how much it varied', () => {
  assert.equal(speedWords({ tokens_per_s: 466, stddev_per_s: 3.1 }), '466 ± 0.7 %');
  assert.equal(speedWords({ tokens_per_s: 17.34, stddev_per_s: 4 }), '17.3 ± 23 %');
  assert.equal(speedWords({ tokens_per_s: 17.34, stddev_per_s: null }), '17.3');
  assert.equal(speedWords({ tokens_per_s: 0, stddev_per_s: 1 }), '0.0');
  assert.equal(speedWords(null), '–');
});

test('a ratio is told as people say it, and noise is no difference', () => {
  const said = (ratio) => ratioWords(ratio).text;
  assert.deepEqual([1, 1.019, 0.981].map(said), ['the same', 'the same', 'the same']);
  assert.deepEqual([1.12, 0.5, 3.21].map(said), ['12 % faster', '50 % slower', '3.2× as fast']);
  assert.deepEqual([null, undefined, 0, -1, NaN, Infinity].map(said), Array(6).fill('–'));
  assert.deepEqual([1.12, 0.5, 1].map((ratio) => ratioWords(ratio).tone), ['ok', 'bad', 'plain']);
});

test('what varied more by itself is no difference', () => {
  const speed = (mean, spread) => ({ tokens_per_s: mean, stddev_per_s: spread });
  assert.equal(noiseOf(speed(100, 0.1), speed(100, 0.1)), 0.02);
  assert.equal(noiseOf(speed(100, 6), speed(100, 8)), 0.2);
  assert.equal(noiseOf(speed(0, 5), null), 0.02);
  assert.equal(noiseOf(speed(100, null), undefined), 0.02);
  assert.equal(ratioWords(1.15, 0.2).text, 'the same');
});

test('there is a row for each test that was made', () => {
  const rows = rowsOf(known);
  assert.deepEqual(rows.map((row) => [row.name, row.now, row.before, row.ratio.text]), [
    ['Reading a prompt', '466 ± 0.7 %', '410', '14 % faster'],
    ['Writing', '177 ± 2.8 %', '181', 'the same'],
  ]);
  assert.equal(rows[0].title, '512 tokens, 3 times');
  const first = rowsOf({ newest: { ...known.newest, generation: null }, previous: null, runtimes: [] });
  assert.deepEqual(first.map((row) => [row.key, row.before, row.ratio.text]), [['prompt', '–', '–']]);
});

test('what was different is said, with the runtime it ran on', () => {
  assert.match(sinceWords(known.previous), /^Since \d+ \w+ \d{4}: KV cache f16, before q8_0\.$/);
  assert.match(sinceWords({ ...known.previous, changes: [] }), /nothing was changed\.$/);
  assert.equal(sinceWords(null), '');
  assert.match(whereWords(known.newest), /^on AMD Ryzen 7 7840U, b/);
  assert.equal(whereWords({ ...known.newest, device: '' }), `on ${known.newest.runtime_id}`);
  assert.match(againstWords(known.runtimes[0]), /^Against .*: reading 69 % slower, writing the same\.$/);
  assert.match(againstWords({ ...known.runtimes[0], prompt_ratio: null, generation_ratio: null }), /nothing in common\.$/);
});

test('a measurement that something disturbed says so', () => {
  const names = new Map([[QWEN.id, 'Qwen3 8B']]);
  assert.deepEqual(notesOf(known.newest, (id) => names.get(id) ?? id), [
    'In memory meanwhile, idle: Qwen3 8B.', 'Other programs used 34 % of the processor.', 'Measured without its draft model.',
  ]);
  assert.deepEqual(notesOf({ ...known.newest, in_memory: [], left_out: [], busy_percent: null }, String), []);
});
