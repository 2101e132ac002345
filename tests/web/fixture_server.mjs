// Serves the page with a made-up engine, for looking at it and for screenshots:
//   node tests/web/fixture_server.mjs [port]       then open /?scenario=two
// A test aid: it has no sessions and keeps nothing.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ANSWER, bench, history, logText, scenarioNames, slots, snapshot, usage } from './fixture_data.mjs';
import { available } from './fixture_runtimes.mjs';

const WEB = fileURLToPath(new URL('../../tray_app/web/', import.meta.url));
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' http://127.0.0.1:* "
  + "http://localhost:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const port = Number(process.argv[2] ?? 7171);
let state = snapshot('two', port);
let scenario = 'two';
let log = logText();
const streams = new Set();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function publish(name, data) {
  state.seq += 1;
  for (const stream of streams) stream.write(`id: ${state.seq}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
}

function setStatus(id, part) {
  const old = state.statuses.find((s) => s.model_id === id) ?? {
    model_id: id, in_flight: 0, waiting: 0, pid: null, loaded_at: null, last_used_at: null, load_s: null, memory_bytes: null,
    context_length: null, retry_at: null, error: null, runtime_id: null, offload: null };
  const status = { ...old, ...part };
  state.statuses = [...state.statuses.filter((s) => s.model_id !== id), status];
  publish('ModelChanged', { status });
}

function setSetting(key, value) {
  const [section, ...name] = key.split('.');
  const table = { ...state.settings };
  if (name.length) table[section] = { ...table[section], [name.join('.')]: value };
  else table[section] = value;
  state.settings = table;
  publish('SettingsChanged', { keys: [key] });
}

function setRuntime(part) {
  state.runtime = { ...state.runtime, ...part };
  publish('RuntimeChanged', { status: state.runtime });
}

function runtimeJob(kind, title, unit, total) {
  const job = {
    id: `r${state.seq}`, kind, title, state: 'running', step: 'Beginning', done: 0, total, unit, rate_per_s: total / 8, eta_s: 8, created_at: Date.now() / 1000,
    finished_at: null, log_name: `${kind.replace('_', '-')}.log`, error: null };
  const show = (part) => {
    Object.assign(job, part);
    state.jobs = [...state.jobs.filter((other) => other.id !== job.id), { ...job }];
    publish('JobChanged', { job });
  };
  show({});
  const timer = setInterval(() => {
    if (state.jobs.find((other) => other.id === job.id)?.state !== 'running') clearInterval(timer);
    else if (job.done + total / 40 >= total) show({ state: 'done', done: total, eta_s: 0 });
    else show({ done: Math.round(job.done + total / 40), eta_s: (total - job.done) / total * 8 });
  }, 200);
  timer.unref();
  return { job_id: job.id };
}

class Refusal extends Error {}
const refuse = (code, message, remedy = '') => { throw Object.assign(new Refusal(message), { view: { code, message, remedy } }); };

const COMMANDS = {
  snapshot: () => state,
  rescan: () => null,
  request_history: () => (state.last_request ? history() : []),
  usage: ({ days }) => usage(days, Boolean(state.last_request)),
  bench_history: ({ model_id: id }) => ({
    ...bench(id), running: state.jobs.filter((j) => j.kind === 'bench_model' && j.state === 'running').map((j) => ({ job_id: j.id, model_id: j.about }))[0] ?? null }),
  bench_model: ({ model_id: id }) => {
    const started = runtimeJob('bench_model', 'Measuring the speed of a model', 'runs', 8);
    state.jobs.find((j) => j.id === started.job_id).about = id;
    return started;
  },
  slots: ({ model_id: id }) => slots(state.statuses.find((s) => s.model_id === id)),
  list_logs: () => [{ name: 'engine.log', size_bytes: log.length, modified_at: 2 }, { name: 'build-runtime.log', size_bytes: 100, modified_at: 1 }],
  read_log: ({ offset, max_bytes: most }) => {
    if (offset !== null) log += `9.99.000.001 I new line ${new Date().toISOString()}\n`;
    const start = offset ?? Math.max(0, log.length - most);
    return { text: log.slice(start, start + most), start_offset: start, next_offset: Math.min(log.length, start + most), size_bytes: log.length };
  },
  launch_command: ({ model_id: id }) => ({ argv: [], text: `${state.runtime.active?.server_path ?? 'llama-server'} -m '${state.models.find((m) => m.id === id)?.path}' --host run/models/a1.sock -c 8192 -ngl 0 -t 8 --jinja` }),
  model_settings: ({ model_id: id }) => ({ own: state.settings.models[id] ?? {}, effective: { context_length: 8192, ...state.settings.models[id] } }),
  change_model_settings: ({ model_id: id, changes }) => {
    if (changes.threads > 1024) refuse('settings_invalid', `models.${id}.threads is ${changes.threads}; it must be 1 to 1024 threads.`.replace(`${id}.`, ''));
    setSetting('models', { ...state.settings.models, [id]: { ...state.settings.models[id], ...changes } });
  },
  change_settings: ({ changes }) => {
    for (const [key, value] of Object.entries(changes)) {
      if (key === 'server.port' && !(value >= 1024)) refuse('settings_invalid', `server.port is ${value}; it must be 1024 to 65535.`);
      setSetting(key, value);
    }
  },
  pin_model: ({ model_id: id, pinned }) => setSetting('models', { ...state.settings.models, [id]: { ...state.settings.models[id], pinned } }),
  add_folder: ({ path }) => {
    if (!path.startsWith('/')) refuse('bad_request', `${path} is not a full path.`, 'Give the whole path, beginning with /.');
    state.folders = [...state.folders, { path, state: 'ok', model_count: 0, is_home: false }];
    publish('LibraryChanged', { model_count: state.models.length, scanning: false });
  },
  remove_folder: ({ path }) => {
    state.folders = state.folders.filter((f) => f.path !== path);
    publish('LibraryChanged', { model_count: state.models.length, scanning: false });
  },
  async switch_model({ model_id: id }) {
    state.active_model_id = id;
    publish('ActiveModelChanged', { model_id: id });
    await COMMANDS.load_model({ model_id: id });
  },
  load_model({ model_id: id }) {
    if (state.statuses.some((s) => s.model_id === id && s.state === 'ready')) return;
    setStatus(id, { state: 'loading', error: null });
    setTimeout(() => setStatus(id, { state: 'ready', pid: 999, memory_bytes: 2e8, context_length: 8192, last_used_at: Date.now() / 1000 }), 2500);
  },
  unload_model: ({ model_id: id }) => setStatus(id, { state: 'unloaded', pid: null }),
  cancel_job: ({ job_id: id }) => {
    state.jobs = state.jobs.map((j) => (j.id === id ? { ...j, state: 'cancelled' } : j));
    publish('JobChanged', { job: state.jobs.find((j) => j.id === id) });
  },
  find_runtime: () => null,
  async available_runtimes({ refresh }) {
    if (scenario === 'rt-slow') await pause(60_000);
    if (refresh) await pause(1200);
    return available(scenario, state.runtime, refresh);
  },
  install_runtime: ({ backend, build }) => runtimeJob('install_runtime', `Installing llama.cpp b${build} for ${backend}`, 'bytes', 34_600_000),
  build_runtime: ({ backend, portable }) => runtimeJob('build_runtime', `Building llama.cpp b11434 for ${backend}${portable ? ', portable' : ''}`, 'steps', 412),
  use_runtime: ({ name }) => {
    const found = state.runtime.installed.find((one) => one.id === name);
    if (!found) refuse('runtime_missing', `There is no llama-server in ${name}.`, 'Name the program, or the folder it is in.');
    setRuntime({ active: found, previous_id: state.runtime.active?.id ?? null, on_trial: true });
    return { job_id: 'p1' };
  },
  roll_back_runtime: () => COMMANDS.use_runtime({ name: state.runtime.previous_id }),
  remove_runtime: ({ runtime_id: id }) => {
    const gone = state.runtime.installed.find((one) => one.id === id);
    setRuntime({ installed: state.runtime.installed.filter((one) => one.id !== id), previous_id: state.runtime.previous_id === id ? null : state.runtime.previous_id });
    return { freed_bytes: gone.size_bytes };
  },
  check_updates: () => state.runtime.update,
  skip_update: () => setRuntime({ update: null }),
  async read_hardware() {
    await pause(600);
    setRuntime({ hardware: { ...state.runtime.hardware, read_at: Date.now() / 1000 } });
  },
  model_origin: () => null,
  hub_account: () => ({ source: 'none', keychain: null, problem: '' }),
  suggested_models: () => ({ suggestions: [], ollama_names: [], quantizations: {} }),
  search_models: () => ({ models: [], asked_at: 0 }),
  copy_diagnostics: () => ({ path: '/tmp/diagnostics.zip' }),
};

async function body(request) {
  let text = '';
  for await (const piece of request) text += piece;
  return JSON.parse(text || '{}');
}

const json = (response, value) => response.writeHead(200, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' }).end(JSON.stringify(value));

async function call(request, response) {
  const { name, args } = await body(request);
  try {
    if (!COMMANDS[name]) refuse('bad_request', `There is no command ${name}.`);
    json(response, { ok: true, value: (await COMMANDS[name](args)) ?? null });
  } catch (error) {
    json(response, { ok: false, error: error.view ?? { code: 'engine', message: String(error), remedy: '' } });
  }
}

async function chat(request, response) {
  const asked = await body(request);
  const question = asked.messages.at(-1).content;
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Access-Control-Allow-Origin': '*' });
  const send = (delta, more = {}) => response.write(`data: ${JSON.stringify({ model: state.active_model_id, choices: [{ index: 0, delta, finish_reason: null }], ...more })}\n\n`);
  for (let i = 0; i < 3; i += 1) {
    response.write(': loading model\n\n');
    await pause(question.includes('slow') ? 2000 : 40);
  }
  if (question.includes('fail')) {
    response.end(`data: ${JSON.stringify({ error: { code: 'model_failed', message: 'llama-server died with signal 9.', remedy: 'Look at its log on the server page.' } })}\n\n`);
    return;
  }
  if (question.includes('think')) for (const word of 'The user wants llamas counted. I should give several ways.'.split(' ')) send({ reasoning_content: `${word} ` });
  for (const piece of ANSWER.match(/[\s\S]{1,7}/g)) {
    if (response.destroyed) return;
    send({ content: piece });
    await pause(question.includes('slow') ? 60 : 2);
  }
  response.write(`data: ${JSON.stringify({ model: state.active_model_id, choices: [{ index: 0, delta: {}, finish_reason: 'stop' }], timings: { predicted_n: 214, predicted_per_second: 87.3 } })}\n\n`);
  response.end('data: [DONE]\n\n');
}

function events(response) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  response.write(': hello\n\n');
  streams.add(response);
  response.on('close', () => streams.delete(response));
}

async function file(path, response) {
  const full = join(WEB, normalize(path).replace(/^(\.\.[/\\])+/, ''));
  try {
    const text = await readFile(full);
    response.writeHead(200, { 'Content-Type': TYPES[extname(full)] ?? 'text/plain', 'Content-Security-Policy': CSP, 'Cache-Control': 'no-store' }).end(text);
  } catch {
    response.writeHead(404).end();
  }
}

createServer((request, response) => {
  const url = new URL(request.url ?? '/', 'http://localhost');
  if (request.method === 'OPTIONS') return response.writeHead(204, { 'Access-Control-Allow-Origin': '*', 'Access-Control-Allow-Headers': '*' }).end();
  if (url.pathname === '/api/call') return call(request, response);
  if (url.pathname === '/api/events') return events(response);
  if (url.pathname === '/v1/chat/completions') return chat(request, response);
  if (url.pathname.startsWith('/web/')) return file(url.pathname.slice(5), response);
  const wish = url.searchParams.get('scenario');
  if (wish) {
    scenario = wish;
    state = snapshot(wish, port);
    for (const stream of streams) stream.destroy();
  }
  return file('index.html', response);
}).listen(port, '127.0.0.1', () => process.stdout.write(`http://127.0.0.1:${port}/?scenario=  ${scenarioNames.join(' ')}\n`));
