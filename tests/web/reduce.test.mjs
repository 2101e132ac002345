import assert from 'node:assert/strict';
import { test } from 'node:test';
import { applyEvent, mergeSnapshot, REFETCH, sameJson } from '../../tray_app/web/reduce.js';
import { QWEN, SMOL, snapshot, status } from './fixture_data.mjs';

const two = () => snapshot('two', 7070);

test('a model event replaces that status and asks for the words that follow from it', () => {
  const before = two();
  const loading = status(QWEN.id, { state: 'loading' });
  const { snapshot: after, refetch } = applyEvent(before, 11, 'ModelChanged', { status: loading });
  assert.equal(after.seq, 11);
  assert.deepEqual(after.statuses.find((s) => s.model_id === QWEN.id), loading);
  assert.equal(after.statuses.length, 2);
  assert.equal(refetch, REFETCH.NOW);
  assert.equal(after.models, before.models, 'the list is the same object, so it is not drawn again');
});

test('a request count alone is no reason to hurry', () => {
  const before = two();
  const busy = { ...before.statuses[0], in_flight: 3 };
  assert.equal(applyEvent(before, 11, 'ModelChanged', { status: busy }).refetch, REFETCH.SOON);
});

test('progress of a job needs no new snapshot, its end does', () => {
  const before = snapshot('building', 7070);
  const job = { ...before.jobs[0], done: 200 };
  const step = applyEvent(before, 11, 'JobChanged', { job });
  assert.equal(step.snapshot.jobs[0].done, 200);
  assert.equal(step.refetch, REFETCH.NO);
  assert.equal(applyEvent(before, 11, 'JobChanged', { job: { ...job, state: 'done' } }).refetch, REFETCH.SOON);
  assert.equal(applyEvent(before, 11, 'JobChanged', { job: { ...job, id: 'new' } }).snapshot.jobs.length, 2);
});

test('plain facts are taken from their event', () => {
  const before = two();
  const apply = (name, data) => applyEvent(before, 11, name, data).snapshot;
  assert.equal(apply('ActiveModelChanged', { model_id: QWEN.id }).active_model_id, QWEN.id);
  assert.equal(apply('NoticesChanged', { notices: [{ code: 'a' }] }).notices.length, 1);
  assert.equal(apply('RequestFinished', { record: { model_id: 'x' } }).last_request.model_id, 'x');
  assert.equal(apply('LibraryChanged', { model_count: 9, scanning: true }).scanning, true);
  assert.equal(apply('GatewayChanged', { status: { state: 'blocked' } }).gateway.state, 'blocked');
  assert.equal(apply('RuntimeChanged', { status: { state: 'missing' } }).runtime.state, 'missing');
});

test('an event of a newer engine is answered with a new snapshot', () => {
  const before = two();
  assert.deepEqual(applyEvent(before, 11, 'SomethingNew', {}), { snapshot: before, refetch: REFETCH.NOW });
});

test('an event never changes the snapshot it is applied to', () => {
  const before = two();
  const copy = structuredClone(before);
  applyEvent(before, 11, 'ModelChanged', { status: status(SMOL.id, { state: 'failed' }) });
  applyEvent(before, 12, 'ActiveModelChanged', { model_id: null });
  assert.deepEqual(before, copy);
});

test('a new snapshot keeps what did not change as the same objects', () => {
  const before = two();
  const fresh = { ...structuredClone(before), seq: 20, status_text: 'other' };
  fresh.models[1].size_bytes += 1;
  const merged = mergeSnapshot(before, fresh);
  assert.deepEqual(merged, fresh);
  assert.equal(merged.models[0], before.models[0]);
  assert.notEqual(merged.models[1], before.models[1]);
  assert.equal(merged.settings, before.settings);
  assert.equal(merged.folders, before.folders);
});

test('a thousand models are merged in a blink', () => {
  const before = snapshot('thousand', 7070);
  const fresh = structuredClone(before);
  const at = performance.now();
  assert.equal(mergeSnapshot(before, fresh).models, before.models);
  assert.ok(performance.now() - at < 100);
});

test('JSON values are compared by content', () => {
  assert.ok(sameJson({ a: [1, { b: null }] }, { a: [1, { b: null }] }));
  for (const [a, b] of [[{}, []], [null, {}], [1, '1'], [{ a: 1 }, { b: 1 }], [[1], [1, 2]]]) assert.ok(!sameJson(a, b));
});
