import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fieldError } from '../../tray_app/web/components/fields.js';
import { visibleRange } from '../../tray_app/web/components/virtual-list.js';
import { arrange, counts } from '../../tray_app/web/model-list.js';
import { pageOf } from '../../tray_app/web/router.js';
import { changesOf } from '../../tray_app/web/model-form.js';
import { snapshot } from './fixture_data.mjs';

const mixed = snapshot('mixed', 7070);
const statuses = new Map(mixed.statuses.map((s) => [s.model_id, s]));
const how = { query: '', filter: 'all', sort: 'name', down: false, statuses, recents: mixed.recent_model_ids };
const names = (part) => arrange(mixed.models, { ...how, ...part }).map((m) => m.name);

test('every word of a search has to match somewhere', () => {
  assert.deepEqual(names({ query: 'qwen q4_k' }), ['Qwen3 8B']);
  assert.deepEqual(names({ query: 'HUGGINGFACETB smollm' }), ['SmolLM2 135M Instruct']);
  assert.deepEqual(names({ query: '.*' }), []);
});

test('filters show what they say', () => {
  assert.deepEqual(names({ filter: 'problem' }), ['Mistral Small 24B', 'SmolLM2 135M Instruct']);
  assert.deepEqual(names({ filter: 'loaded' }), ['Gemma 3 12B Instruct', 'nomic embed text v1.5', 'Qwen3 8B']);
  assert.deepEqual(counts(mixed.models, statuses), { all: 6, loaded: 3, chat: 4, embedding: 1, vision: 1, problem: 2 });
});

test('models are sorted, unknown values last when the largest come first', () => {
  assert.equal(names({ sort: 'size', down: true })[0], 'Mistral Small 24B');
  assert.match(names({ sort: 'parameters', down: true }).at(-1), /^An-extremely/);
  assert.deepEqual(names({ sort: 'recent', down: true }).slice(0, 2), ['Qwen3 8B', 'SmolLM2 135M Instruct']);
  assert.deepEqual(names({ down: true }), names({}).reverse());
});

test('only the rows in view are drawn', () => {
  assert.deepEqual(visibleRange(0, 640, 64, 1000), [0, 16]);
  assert.deepEqual(visibleRange(64_000 - 640, 640, 64, 1000), [984, 1000]);
  assert.deepEqual(visibleRange(9e9, 640, 64, 3), [3, 3]);
});

test('an address that is no page opens the models', () => {
  assert.equal(pageOf('#/chat'), 'chat');
  assert.equal(pageOf('#/server?x=1'), 'server');
  for (const odd of ['', '#', '#/<script>', '#/constructor']) assert.equal(pageOf(odd), 'models');
});

test('only changed settings are sent, and an emptied field takes the wish back', () => {
  const before = { context_length: '4096', threads: '', extra_args: '', system_prompt: 'x', mmproj: true };
  assert.deepEqual(changesOf({ ...before }, before), {});
  assert.deepEqual(changesOf({ ...before, context_length: ' ', threads: '8', extra_args: '-fa "a b"', system_prompt: '' }, before), {
    context_length: null, threads: 8, extra_args: ['-fa', 'a b'], system_prompt: null,
  });
});

test('a refusal is shown at the field it names', () => {
  const error = { message: 'server.port is 80; it must be 1024 to 65535.', remedy: '' };
  assert.equal(fieldError(error, 'server.port'), error);
  assert.equal(fieldError(error, 'server.parallel'), null);
  assert.equal(fieldError({ message: 'models.a/b.threads is 0', remedy: '' }, 'threads').message, 'models.a/b.threads is 0');
  assert.equal(fieldError(null, 'threads'), null);
});
