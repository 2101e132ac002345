import assert from 'node:assert/strict';
import { test } from 'node:test';
import { speed } from '../../tray_app/web/format.js';
import { bars, chartLabel, heights, keptWords, MOST_SLOTS, rate, slotsView, tokensWords } from '../../tray_app/web/usage-words.js';
import { slots, usage } from './fixture_data.mjs';

const HOUR = 3600;
const DAY = 86400;
const bucket = (start, more = {}) => ({ start_at: start, requests: 2, generated_tokens: 9, tokens_per_s: 10, ...more });
const spanOf = (step, length) => ({ from_at: 1000 * DAY, until_at: 1000 * DAY + step * (length - 0.5), bucket_s: step, kept_from_at: null, models: [] });
const requests = (each) => each.requests;
const slot = (id, part = {}) => ({ id, busy: false, context_length: 4096, context_used: 0, ...part });

test('a chart has a place for each hour, those without a request included', () => {
  const span = spanOf(HOUR, 25);
  const list = bars(span, { buckets: [bucket(span.from_at), bucket(span.from_at + 24 * HOUR, { requests: 5 })] }, requests, String);
  assert.equal(list.length, 25);
  assert.deepEqual(list.map((bar) => bar.value), [2, ...Array(23).fill(null), 5]);
  assert.match(list[24].title, /^\d\d:\d\d: 5$/);
  assert.match(list[3].title, /: none$/);
});

test('a day that is an hour longer or shorter keeps its place', () => {
  const span = spanOf(DAY, 7);
  const list = bars(span, { buckets: [bucket(span.from_at + 3 * DAY - HOUR), bucket(span.from_at + 4 * DAY + HOUR)] }, requests, String);
  assert.deepEqual(list.map((bar) => bar.value), [null, null, null, 2, 2, null, null]);
  assert.match(list[3].title, /^\d+ \w+ \d{4}: 2$/);
});

test('a clock that was set back does not make a chart without end', () => {
  const odd = { ...spanOf(HOUR, 1), until_at: 0 };
  assert.equal(bars(odd, { buckets: [] }, requests, String).length, 1);
  assert.ok(bars({ ...odd, until_at: 1e15 }, { buckets: [] }, requests, String).length <= 100);
});

test('the highest bar fills the chart and the least one is seen', () => {
  const list = [100, 1, 0, null].map((value) => ({ value, title: '' }));
  assert.deepEqual(heights(list), [1, 0.08, 0, 0]);
  assert.deepEqual(heights([{ value: null, title: '' }]), [0]);
  assert.deepEqual(heights([]), []);
});

test('a chart says in words what it shows', () => {
  const of = (...values) => chartLabel('Speed by the hour', values.map((value) => ({ value, title: '' })), speed);
  assert.equal(of(null, 12, 45.04, null), 'Speed by the hour: 12.0 tokens/s to 45.0 tokens/s');
  assert.equal(of(12), 'Speed by the hour: 12.0 tokens/s');
  assert.equal(of(null), 'Speed by the hour: nothing yet');
});

test('tokens are told with the part that came from the cache', () => {
  const model = { prompt_tokens: 1204, cached_tokens: 602, generated_tokens: 340 };
  assert.equal(tokensWords(model), '1,204 read (50 % from the cache), 340 written');
  assert.match(tokensWords({ ...model, longest_tokens: 1500 }), /written; the longest request took 1,500$/);
  assert.equal(tokensWords({ ...model, cached_tokens: 0 }), '1,204 read, 340 written');
  assert.equal(tokensWords({ prompt_tokens: 0, cached_tokens: 0, generated_tokens: 0 }), '0 read, 0 written');
  assert.equal(rate(91.34), '91.3');
  assert.equal(rate(null), '–');
});

test('a span that the kept requests do not fill says so', () => {
  const found = usage(30);
  assert.equal(keptWords(found), '');
  assert.match(keptWords(found, 100), /^The last 100 requests are kept: since \d+ \w+ \d{4}\.$/);
});

test('slots are told by how many are busy and how full the fullest is', () => {
  const view = slotsView(slots({ state: 'ready', in_flight: 2 }));
  assert.equal(view.text, '2 of 4 slots busy · 5,200 of 8k context used');
  assert.equal(view.bars[1].label, 'Slot 2: busy, 3,100 of 8,192 tokens');
  assert.deepEqual(view.bars.map((bar) => bar.busy), [true, true, false, false]);
  assert.equal(slotsView([slot(0, { busy: true, context_used: 9999 })]).text, 'answering · 9,999 of 4k context used');
  assert.equal(slotsView([slot(0, { context_used: 9999 })]).bars[0].part, 1);
  assert.equal(slotsView([]), null);
  assert.equal(slotsView([slot(0, { context_length: 0 })]), null);
});

test('of many slots the busy and the full ones are shown', () => {
  const many = Array.from({ length: 40 }, (_, id) => slot(id, { busy: id === 30, context_used: id }));
  const view = slotsView(many);
  assert.equal(view.bars.length, MOST_SLOTS);
  assert.deepEqual(view.bars.slice(0, 2).map((bar) => bar.id), [30, 39]);
});
