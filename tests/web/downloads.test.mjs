import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as w from '../../tray_app/web/download-words.js';
import { abilities, createDiscover, directReference, isAddress, SOON_MS } from '../../tray_app/web/discover-state.js';
import { applyEvent, REFETCH } from '../../tray_app/web/reduce.js';
import { pageOf, PAGES, referenceOf } from '../../tray_app/web/router.js';
import { snapshot } from './fixture_data.mjs';

const download = (part = {}) => ({
  id: 'd1', reference: 'org/repo', title: 'Repo Q4_K_M', state: 'running', step: 'Downloading', done_bytes: 0, total_bytes: 1e9, rate_bytes_s: null,
  eta_s: null, created_at: 0, finished_at: null, retry_at: null, model_path: null, error: null, warnings: [], order: 1, ...part,
});

// -- words

test('how far a download is, is told without what is not known', () => {
  assert.equal(w.progressLine(download({ done_bytes: 43e7, rate_bytes_s: 12e6, eta_s: 47 })), '430 MB of 1.0 GB · 12.0 MB/s · 0:47 left');
  assert.equal(w.progressLine(download({ done_bytes: 5e6, total_bytes: null })), '5.0 MB');
  assert.equal(w.progressLine(download({ total_bytes: null })), '');
  assert.equal(w.progressLine(download({ state: 'paused', done_bytes: 1e6, rate_bytes_s: 5 })), '1.0 MB of 1.0 GB');
  assert.equal(w.percent(download({ done_bytes: 999_999_999 })), '99 %', 'only all of it is 100 %');
  assert.equal(w.percent(download({ total_bytes: null })), '');
});

test('every state has words, and waiting says until when', () => {
  assert.equal(w.stateView(download({ state: 'waiting', retry_at: 125 }), 100).text, 'Waits for the network; next try in 0:25');
  assert.equal(w.stateView(download({ state: 'waiting' }), 100).text, 'Waits for the network');
  for (const state of ['queued', 'running', 'paused', 'waiting', 'done', 'failed', 'cancelled']) assert.ok(w.stateView(download({ state }), 0).text);
});

test('all unfinished ones are told together', () => {
  const list = [download({ done_bytes: 5e8 }), download({ id: 'd2', state: 'queued' }), download({ id: 'd3', state: 'done' })];
  assert.deepEqual(w.overall(list), { count: 2, text: '25 %' });
  assert.deepEqual(w.overall([download({ total_bytes: null })]), { count: 1, text: '' });
  assert.deepEqual(w.overall([]), { count: 0, text: '' });
});

test('the unfinished come in their order, then the newest finished', () => {
  const list = [
    download({ id: 'old', state: 'done', finished_at: 1 }), download({ id: 'b', order: 2, state: 'queued' }),
    download({ id: 'new', state: 'failed', finished_at: 9 }), download({ id: 'a', order: 1 }),
  ];
  assert.deepEqual(w.inOrder(list).map((d) => d.id), ['a', 'b', 'new', 'old']);
});

test('every verdict on a fit has a word, the best first', () => {
  const fits = ['gpu', 'partly', 'processor', 'tight', 'too_large', 'unknown'];
  assert.deepEqual(fits.map((name) => w.fitRank({ fits: name })), [0, 1, 2, 3, 4, 5]);
  for (const name of fits) assert.ok(w.badgeView({ fits: name }).text);
  assert.equal(w.badgeView({ fits: 'of a newer engine' }).text, 'Not known');
});

test('counts are short', () => {
  assert.deepEqual([null, 0, 999, 1000, 12_345, 1_234_567].map(w.short), ['–', '0', '999', '1k', '12.3k', '1.2M']);
});

// -- events

test('progress replaces one row and asks for nothing', () => {
  const before = { ...snapshot('two', 7070), downloads: [download(), download({ id: 'd2', order: 2 })] };
  const next = applyEvent(before, 11, 'DownloadChanged', { download: download({ done_bytes: 5 }), removed: false });
  assert.equal(next.refetch, REFETCH.NO);
  assert.equal(next.snapshot.downloads[0].done_bytes, 5);
  assert.equal(next.snapshot.downloads[1], before.downloads[1]);
});

test('a download that ends, moves or goes finds its place', () => {
  const before = { ...snapshot('two', 7070), downloads: [download(), download({ id: 'd2', order: 2 })] };
  const ids = (data) => applyEvent(before, 11, 'DownloadChanged', data).snapshot.downloads.map((d) => d.id);
  assert.deepEqual(ids({ download: download({ state: 'done', finished_at: 3 }), removed: false }), ['d2', 'd1']);
  assert.deepEqual(ids({ download: download({ order: 3 }), removed: false }), ['d2', 'd1']);
  assert.deepEqual(ids({ download: download({ id: 'd3', order: 1.5 }), removed: false }), ['d1', 'd3', 'd2']);
  assert.deepEqual(ids({ download: download(), removed: true }), ['d2']);
});

// -- addresses of the page

test('a reference behind the page is read, whatever is in it', () => {
  assert.equal(referenceOf('#/discover?reference=org%2Frepo%3AQ4'), 'org/repo:Q4');
  assert.equal(referenceOf('#/discover?reference=https%3A%2F%2Fh%2Fx.gguf%3Fa%3D1'), 'https://h/x.gguf?a=1');
  assert.equal(referenceOf('#/discover'), '');
  assert.equal(pageOf('#/discover?reference=x'), 'discover');
  assert.deepEqual(PAGES.slice(0, 3), ['models', 'discover', 'downloads']);
});

// -- discover

test('an address or a whole name is offered directly, other words are searched', () => {
  const names = ['llama3.2'];
  for (const text of ['https://huggingface.co/a/b', 'hf.co/a/b', 'org/repo:Q4_K_M', 'org/repo', 'llama3.2', 'llama3.2:1b', 'qwen3:8b']) {
    assert.equal(directReference(` ${text} `, names), text);
  }
  for (const text of ['', 'llama', 'two words', 'a/b/c', 'x:', 'javascript:alert(1)']) assert.equal(directReference(text, names), null, text);
  assert.ok(isAddress('https://x'));
  assert.ok(!isAddress('llama'));
});

test('what a model can do is read from its tags', () => {
  assert.deepEqual(abilities({ tags: ['image-text-to-text', 'code'], pipeline: null }), ['vision', 'code']);
  assert.deepEqual(abilities({ tags: [], pipeline: 'feature-extraction' }), ['embedding']);
  assert.deepEqual(abilities({ tags: [], pipeline: null }), []);
});

/** A clock that the test moves, and a hub whose answers the test gives. */
function bench() {
  const timers = [];
  const asked = [];
  const ask = (name, args) => new Promise((resolve) => { asked.push({ name, args, resolve }); });
  const clock = {
    later: (act, ms) => { assert.equal(ms, SOON_MS); timers.push(act); return timers.length - 1; },
    cancel: (timer) => { if (timer !== null) timers[timer] = () => {}; },
  };
  return { state: createDiscover(ask, clock), asked, tick: () => timers.splice(0).forEach((act) => act()) };
}
const found = (...ids) => ({ ok: true, value: { models: ids.map((id) => ({ id })), asked_at: 0 } });
const turn = () => new Promise((done) => setImmediate(done));

test('typing asks once, when it pauses', () => {
  const { state, asked, tick } = bench();
  for (const text of ['s', 'sm', 'smol']) state.type(text);
  assert.equal(asked.length, 0);
  tick();
  assert.deepEqual(asked.map((one) => one.args.query), ['smol']);
  assert.ok(state.asking.value);
});

test('a late answer to an older question is dropped', async () => {
  const { state, asked, tick } = bench();
  state.type('old');
  tick();
  state.type('new');
  tick();
  asked[1].resolve(found('new/one'));
  await turn();
  asked[0].resolve(found('old/one'));
  await turn();
  assert.deepEqual(state.found.value, [{ id: 'new/one' }]);
  assert.ok(!state.asking.value);
});

test('a question that was answered is not asked again, a refused one is', async () => {
  const { state, asked } = bench();
  state.search();
  asked[0].resolve({ ok: false, error: { code: 'x', message: 'Away.', remedy: '' } });
  await turn();
  assert.equal(state.error.value.message, 'Away.');
  assert.equal(state.found.value, null);
  state.search();
  asked[1].resolve(found('a/b'));
  await turn();
  state.search();
  assert.equal(asked.length, 2);
  assert.equal(state.error.value, null);
});

test('a kind is a further tag, an address is not searched', () => {
  const { state, asked, tick } = bench();
  state.show('image-text-to-text');
  assert.equal(asked[0].args.filter, 'gguf,image-text-to-text');
  state.type('https://huggingface.co/a/b');
  tick();
  assert.equal(asked.length, 1);
});
