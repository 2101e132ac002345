import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { CommandError, createBridge, EVENT_NAMES, unwrap } from '../../tray_app/web/bridge.js';

const answer = (value, status = 200) => ({ status, json: async () => value });
const refused = { ok: false, error: { code: 'port_taken', message: 'Port 7070 is held.', remedy: 'Choose another.' } };

test('an envelope gives its value, or its error with code and remedy', () => {
  assert.equal(unwrap({ ok: true, value: 0 }), 0);
  assert.throws(() => unwrap(refused), (error) => error instanceof CommandError && error.code === 'port_taken' && error.remedy === 'Choose another.');
});

test('an answer that is no envelope is an error, never a value', () => {
  for (const odd of [null, undefined, 'text', {}, { ok: 'true' }, []]) assert.throws(() => unwrap(odd), CommandError);
  assert.throws(() => unwrap({ ok: false }), /no reason/);
});

test('in a browser a command is a POST with the page\'s cookie', async () => {
  const asked = [];
  const { call } = createBridge({ win: {}, fetchFn: async (...args) => { asked.push(args); return answer({ ok: true, value: 5 }); } });
  assert.equal(await call('rescan', { a: 1 }), 5);
  const [url, options] = asked[0];
  assert.deepEqual([url, options.method, options.credentials], ['/api/call', 'POST', 'same-origin']);
  assert.deepEqual(JSON.parse(options.body), { name: 'rescan', args: { a: 1 } });
});

test('a dead engine, a lost session and a broken answer each say what they are', async () => {
  const code = async (fetchFn) => createBridge({ win: {}, fetchFn }).call('x').catch((error) => error.code);
  assert.equal(await code(async () => { throw new TypeError('failed'); }), 'engine_unreachable');
  assert.equal(await code(async () => answer(null, 401)), 'unauthorized');
  assert.equal(await code(async () => ({ status: 500, json: async () => JSON.parse('<') })), 'bridge');
  assert.equal(await code(async () => answer(refused)), 'port_taken');
});

test('in the window a command goes through its bridge', async () => {
  const win = { pywebview: { api: { call: async (name, args) => ({ ok: true, value: [name, args] }) } } };
  const { call, native } = createBridge({ win });
  assert.deepEqual(await call('snapshot'), ['snapshot', {}]);
  assert.ok(native.available());
  win.pywebview.api.call = async () => { throw new Error('Traceback'); };
  await assert.rejects(call('snapshot'), (error) => error.code === 'engine_unreachable' && !error.message.includes('Traceback'));
});

test('native actions are refused in a browser without asking the engine', async () => {
  const { native } = createBridge({ win: {}, fetchFn: async () => assert.fail('asked the engine') });
  assert.ok(!native.available());
  await assert.rejects(native.chooseFolder(), { code: 'no_window' });
});

test('copying says when the user has to do it by hand', async () => {
  assert.equal(await createBridge({ win: {} }).copyText('a'), false);
  const texts = [];
  const win = { navigator: { clipboard: { writeText: async (text) => { texts.push(text); } } } };
  assert.equal(await createBridge({ win }).copyText('a'), true);
  assert.deepEqual(texts, ['a']);
});

/** An event stream and an engine that the test moves by hand. */
function rig() {
  const log = [];
  const engine = { seq: 5, snapshots: 0, fail: null, hold: null };
  const sources = [];
  class FakeEventSource {
    constructor(url) { this.url = url; this.listeners = {}; this.closed = false; sources.push(this); }
    addEventListener(name, listener) { this.listeners[name] = listener; }
    close() { this.closed = true; }
    say(seq, name, data = {}) { this.listeners[name]({ lastEventId: String(seq), data: JSON.stringify(data) }); }
  }
  const fetchFn = async () => {
    engine.snapshots += 1;
    const seq = engine.seq;
    if (engine.hold) await engine.hold;
    if (engine.fail) return engine.fail();
    return answer({ ok: true, value: { seq } });
  };
  const bridge = createBridge({ win: {}, fetchFn, EventSourceClass: FakeEventSource });
  const line = bridge.connect({
    snapshot: (s) => log.push(`snapshot ${s.seq}`),
    event: (seq, name) => log.push(`${name} ${seq}`),
    link: (state) => log.push(state),
  });
  return { engine, line, log, sources };
}
const until = async (check) => {
  for (let i = 0; i < 1000 && !check(); i += 1) await new Promise((done) => setTimeout(done, 5));
  assert.ok(check());
};

test('a snapshot comes first, then the events after it', async () => {
  const { line, log, sources } = rig();
  await until(() => sources.length === 1);
  assert.equal(sources[0].url, '/api/events?after=5');
  assert.deepEqual(Object.keys(sources[0].listeners), [...EVENT_NAMES]);
  sources[0].onopen();
  sources[0].say(5, 'JobChanged');
  sources[0].say(6, 'JobChanged');
  assert.deepEqual(log, ['connecting', 'snapshot 5', 'open', 'JobChanged 6']);
  line.close();
  assert.ok(sources[0].closed);
});

test('a gap and a Missed event each lead to a new snapshot', async () => {
  const { engine, line, log, sources } = rig();
  await until(() => sources.length === 1);
  engine.seq = 9;
  sources[0].say(9, 'JobChanged');
  await until(() => engine.snapshots === 2 && log.at(-1) === 'snapshot 9');
  engine.seq = 30;
  sources[0].say(30, 'Missed');
  await until(() => log.at(-1) === 'snapshot 30');
  line.close();
});

test('events that overtake a snapshot are applied again after it', async () => {
  const { engine, line, log, sources } = rig();
  await until(() => sources.length === 1);
  let release;
  engine.hold = new Promise((done) => { release = done; });
  sources[0].say(7, 'Missed');
  await until(() => engine.snapshots === 2);
  sources[0].say(8, 'ModelChanged');
  release();
  await until(() => log.at(-2) === 'snapshot 5');
  assert.equal(log.at(-1), 'ModelChanged 8');
  line.close();
});

test('wishes for a snapshot at the same time become one', async () => {
  const { engine, line, sources } = rig();
  await until(() => sources.length === 1);
  for (let i = 0; i < 50; i += 1) line.refresh();
  await until(() => engine.snapshots === 2);
  assert.equal(engine.snapshots, 2);
  line.close();
});

test('a lost engine is told, and found again with a new snapshot', async () => {
  const { engine, line, log, sources } = rig();
  await until(() => sources.length === 1);
  sources[0].onopen();
  engine.seq = 2; // another engine process counts from the start
  sources[0].onerror();
  assert.equal(log.at(-1), 'lost');
  await until(() => sources.length === 2);
  assert.equal(sources[1].url, '/api/events?after=2');
  assert.equal(log.at(-1), 'snapshot 2');
  line.close();
});

test('an ended session is told apart from a lost engine', async () => {
  const { engine, line, log, sources } = rig();
  await until(() => sources.length === 1);
  engine.fail = () => answer(null, 401);
  sources[0].onerror();
  await until(() => log.at(-1) === 'expired');
  line.close();
});

test('the page listens to every event that it can apply', async () => {
  const source = await readFile(new URL('../../tray_app/web/reduce.js', import.meta.url), 'utf8');
  const applied = [...source.matchAll(/^ {2}([A-Z]\w+): \(/gm)].map((found) => found[1]);
  assert.ok(applied.includes('DownloadChanged'));
  assert.deepEqual(applied.filter((name) => !EVENT_NAMES.includes(name)), []);
});
