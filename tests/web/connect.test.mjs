import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PROGRAMS, programOf, rootOf } from '../../tray_app/web/connect-snippets.js';
import { tryOut } from '../../tray_app/web/connect-test.js';

const ASK = { base: 'http://127.0.0.1:7070/v1', model: 'default', follows: 'org/m:Q4', keyed: false, embedding: false, linux: true };
const write = (id, more = {}) => programOf(id).write({ ...ASK, ...more });
const ask = (protocol, fetchFn, more = {}) => tryOut({
  protocol, base: ASK.base, model: 'm', key: '', signal: new AbortController().signal, fetchFn, ...more,
});
const answers = (value, status = 200) => async () => new Response(JSON.stringify(value), { status });

test('each program is told the address, the model, and a key only where one is needed', () => {
  for (const program of PROGRAMS) {
    const open = program.write(ASK);
    assert.ok(open.text.includes('127.0.0.1:7070'), program.id);
    assert.ok(!open.text.includes('YOUR-KEY'), program.id);
    assert.ok(open.where, program.id);
    const keyed = program.write({ ...ASK, keyed: true, model: 'org/some:Q8' });
    const said = keyed.text + keyed.notes.join();
    assert.match(said, /YOUR-KEY|one of your keys|without one/, program.id);
    if (program.id !== 'copilot' && program.id !== 'open-webui') assert.ok(keyed.text.includes('org/some:Q8'), program.id);
  }
});

test('Claude Code is never told the word that means another model to it', () => {
  assert.match(write('claude').text, /--model org\/m:Q4$/);
  assert.match(write('claude', { model: 'my-alias' }).text, /--model my-alias$/);
  assert.match(write('claude', { follows: '' }).text, /--model MODEL$/);
});

test('a container reaches this computer by the name that its system gives it', () => {
  assert.match(write('open-webui').text, /--network host[^]*http:\/\/127\.0\.0\.1:7070\/v1/);
  assert.match(write('open-webui', { linux: false }).text, /-p 3000:8080[^]*http:\/\/host\.docker\.internal:7070\/v1/);
  assert.match(write('open-webui', { linux: false, base: 'http://192.168.1.5:7070/v1' }).text, /http:\/\/192\.168\.1\.5:7070\/v1/);
});

test('names with quotes, spaces and dollars stay one name', () => {
  const odd = `it's "odd" $HOME \\ x`;
  assert.ok(write('curl', { model: odd }).text.includes(String.raw`it'\''s \"odd\" $HOME`));
  const settings = JSON.parse(write('zed', { model: odd }).text);
  assert.equal(settings.language_models.openai_compatible['Llama Wrangler'].available_models[0].name, odd);
  assert.ok(write('claude', { model: odd }).text.endsWith(String.raw`'it'\''s "odd" $HOME \ x'`));
});

test('the root has no version in it', () => {
  assert.equal(rootOf('http://[::1]:7070/v1'), 'http://[::1]:7070');
  assert.equal(rootOf('http://127.0.0.1:7070/v1/'), 'http://127.0.0.1:7070');
});

test('a test asks in the words of its protocol and finds the text of the answer', async () => {
  const cases = [
    ['openai', '/v1/chat/completions', { choices: [{ message: { content: ' Hello. ' } }] }],
    ['openai', '/v1/chat/completions', { choices: [{ message: { content: '', reasoning_content: 'Hello.' } }] }],
    ['responses', '/v1/responses', { output: [{ type: 'reasoning' }, { content: [{ text: 'Hello.' }] }] }],
    ['anthropic', '/v1/messages', { content: [{ type: 'text', text: 'Hello.' }] }],
    ['ollama', '/api/chat', { message: { content: 'Hello.' } }],
    ['embeddings', '/v1/embeddings', { data: [{ embedding: [1, 2, 3] }] }],
  ];
  for (const [protocol, path, answer] of cases) {
    let sent;
    const told = await ask(protocol, async (url, options) => {
      sent = { url, ...options, body: JSON.parse(options.body) };
      return new Response(JSON.stringify(answer));
    }, { key: 'lw-1' });
    assert.equal(sent.url, `http://127.0.0.1:7070${path}`);
    assert.equal(sent.body.model, 'm');
    assert.equal(sent.headers[protocol === 'anthropic' ? 'x-api-key' : 'Authorization'], protocol === 'anthropic' ? 'lw-1' : 'Bearer lw-1');
    assert.equal(told.ok, true);
    assert.match(told.text, protocol === 'embeddings' ? /3 numbers/ : /^Hello\.$/);
  }
});

test('what goes wrong is told in the words of whoever refused', async () => {
  const ours = await ask('openai', answers({ error: { message: 'No model is chosen yet.', remedy: 'Choose one.' } }, 404));
  assert.deepEqual(ours, { ok: false, message: 'No model is chosen yet.', remedy: 'Choose one.' });
  assert.equal((await ask('ollama', answers({ error: 'gone' }, 404))).message, 'gone');
  assert.match((await ask('openai', async () => new Response('<html>', { status: 502 }))).message, /HTTP 502/);
  assert.match((await ask('openai', answers({ choices: [] }))).message, /no text/);
  assert.match((await ask('openai', answers(null))).message, /no text/);
  const refused = async () => { throw new TypeError('fetch failed'); };
  assert.match((await ask('openai', refused)).message, /No answer at/);
});

test('a test that was stopped has no outcome', async () => {
  const controller = new AbortController();
  const waits = (_, { signal }) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  const told = ask('openai', waits, { signal: controller.signal });
  controller.abort();
  assert.equal(await told, null);
});
