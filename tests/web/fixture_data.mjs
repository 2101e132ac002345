// Made-up snapshots for looking at the page without an engine.

import { CPU, RUNTIMES, status as runtimes, VULKAN } from './fixture_runtimes.mjs';

const NOW = () => Date.now() / 1000;
const QUANTS = ['Q4_K_M', 'Q8_0', 'Q5_K_M', 'Q6_K', 'IQ3_XS', 'F16', 'Q4_1', 'MXFP4'];
const MAKERS = ['bartowski', 'unsloth', 'HuggingFaceTB', 'Qwen', 'ggml-org', 'lmstudio-community'];
const FAMILIES = ['Llama-3.2', 'Qwen3', 'gemma-3', 'Mistral-Small', 'Phi-4', 'SmolLM2', 'DeepSeek-R1-Distill'];
const HOME = '/home/maya/.llama-wrangler';

export function model(part) {
  return {
    id: 'HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1', name: 'SmolLM2 135M Instruct',
    publisher: 'HuggingFaceTB', path: `${HOME}/models/HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf`,
    folder: `${HOME}/models`, size_bytes: 98_800_000, shard_count: 1, modified_at: NOW() - 86400 * 3, architecture: 'llama',
    parameter_count: 134_515_008, size_label: '135M', quantization: 'Q4_1', context_length: 8192, kv_bytes_per_token: 23_040,
    has_chat_template: true, kind: 'chat', mmproj_path: null, available: true, details_known: true, license: 'apache-2.0', ...part,
  };
}

export const SMOL = model({});
export const QWEN = model({
  id: 'Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M', name: 'Qwen3 8B', publisher: 'Qwen', size_bytes: 5_027_783_488, architecture: 'qwen3',
  path: '/data/models/Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf', folder: '/data/models', parameter_count: 8_190_735_360,
  size_label: '8B', quantization: 'Q4_K_M', context_length: 40_960, kv_bytes_per_token: 147_456,
});
const GEMMA = model({
  id: 'ggml-org/gemma-3-12b-it-GGUF/gemma-3-12b-it-Q4_K_M', name: 'Gemma 3 12B Instruct', publisher: 'ggml-org', size_bytes: 7_300_574_912,
  architecture: 'gemma3', parameter_count: 11_766_034_176, quantization: 'Q4_K_M', context_length: 131_072, kv_bytes_per_token: 393_216,
  mmproj_path: `${HOME}/models/mmproj.gguf`,
});
const EMBED = model({
  id: 'nomic/nomic-embed-text-v1.5.Q8_0', name: 'nomic embed text v1.5', publisher: 'nomic-ai', kind: 'embedding', quantization: 'Q8_0',
  size_bytes: 146_000_000, parameter_count: 136_731_648, context_length: 2048, has_chat_template: false,
});
const AWAY = model({
  id: 'usb/Mistral-Small-24B-Q5_K_M', name: 'Mistral Small 24B', publisher: 'bartowski', available: false, folder: '/media/maya/USB/models',
  path: '/media/maya/USB/models/Mistral-Small-24B-Q5_K_M.gguf', quantization: 'Q5_K_M', size_bytes: 16_763_983_872, parameter_count: 23_572_403_200,
});
const HOSTILE = model({
  id: 'x/<script>alert(1)</script>', name: '<img src=x onerror=alert(1)>', publisher: '"><svg onload=alert(2)>', quantization: "';--",
  path: `${HOME}/models/<img src=x onerror=alert(1)>.gguf`, architecture: '{{constructor}}',
});
const LONG = model({
  id: 'y/long', name: 'An-extremely-long-model-name-that-somebody-uploaded-with-every-merge-recipe-in-it-v2.1-abliterated-i1-GGUF',
  publisher: 'a-publisher-with-quite-a-long-name-too', parameter_count: null, size_label: null, quantization: null, context_length: null,
  kind: 'unknown', details_known: false,
});

export const status = (id, part) => ({
  model_id: id, state: 'unloaded', in_flight: 0, waiting: 0, pid: null, loaded_at: null, last_used_at: null, load_s: null,
  memory_bytes: null, context_length: null, runtime_id: null, offload: null, retry_at: null, error: null, ...part,
});
const ready = (m, part) => status(m.id, {
  state: 'ready', pid: 41233, loaded_at: NOW() - 600, last_used_at: NOW() - 42, load_s: 1.7,
  memory_bytes: m.size_bytes + 8192 * m.kv_bytes_per_token, context_length: 8192, runtime_id: CPU.id, ...part,
});

const MANY = Array.from({ length: 1000 }, (_, i) => {
  const family = FAMILIES[i % FAMILIES.length];
  const size = [1, 3, 8, 14, 27, 70][i % 6];
  const quant = QUANTS[i % QUANTS.length];
  return model({
    id: `${MAKERS[i % MAKERS.length]}/${family}-${size}B-GGUF/${family}-${size}B-v${i}-${quant}`, name: `${family} ${size}B v${i}`,
    publisher: MAKERS[i % MAKERS.length], size_bytes: size * 6e8 + i * 1e6, parameter_count: size * 1e9, quantization: quant,
    context_length: [8192, 32768, 131072][i % 3], kind: i % 40 === 7 ? 'embedding' : 'chat', available: i % 97 !== 5,
    mmproj_path: i % 50 === 3 ? '/x' : null, modified_at: NOW() - i * 3600,
  });
});

const job = (part) => ({
  id: 'j1', kind: 'build_runtime', title: 'Building llama.cpp b11434', state: 'running', step: 'Compiling ggml-cpu.c', done: 163,
  total: 412, unit: 'steps', rate_per_s: 1.9, eta_s: 131, created_at: NOW() - 80, finished_at: null, log_name: 'build-runtime.log', error: null, ...part,
});

function base(port) {
  return {
    seq: 10, version: '0.1.0', pid: 4711, started_at: NOW() - 3600, home: HOME, mode: 'tray', server_state: 'stopped',
    status_text: 'No model chosen', active_model_id: null, recent_model_ids: [],
    gateway: { state: 'listening', host: '127.0.0.1', port, base_url: `http://127.0.0.1:${port}/v1`, requests_total: 0, error: null },
    runtime: runtimes({}), models: [], statuses: [],
    folders: [{ path: `${HOME}/models`, state: 'ok', model_count: 0, is_home: true }], left_out: [], scanning: false, jobs: [], downloads: [],
    memory: { total_bytes: 33.4e9, available_bytes: 21.2e9, budget_bytes: 18.6e9, models_bytes: 0 }, notices: [],
    settings: {
      version: 1, server: { host: '127.0.0.1', port, context_length: 8192, max_queue: 64, start_with: 'last' }, library: { folders: [] },
      runtime: { server_path: null, auto_build: true, updates: 'notify', backend: null, feed_url: null }, downloads: { concurrent: 2, connections: 4, limit_bytes_s: null, hub_endpoint: null, token_stored: false }, ui: { theme: 'system', close_to_tray: true }, aliases: { 'gpt-4o': 'default' }, models: {},
    },
    last_request: null,
  };
}

const USUAL_FOLDERS = [
  { path: `${HOME}/models`, state: 'ok', model_count: 4, is_home: true },
  { path: '/data/models', state: 'ok', model_count: 2, is_home: false },
  { path: '/media/maya/USB/models', state: 'missing', model_count: 1, is_home: false },
];
const LEFT_OUT = [
  { path: '/data/models/half.gguf', reason: 'The file ends before its tensors do: 1.2 GB of 4.9 GB are there.' },
  { path: '/data/models/readme.gguf', reason: 'It does not begin as a GGUF file does.' },
];

const SCENARIOS = {
  empty: (s) => s,
  nothing: (s) => ({ ...s, runtime: { state: 'missing', active: null, job_id: null, error: null } }),
  two: (s) => ({
    ...s, server_state: 'ready', status_text: 'SmolLM2 135M Instruct is ready', active_model_id: SMOL.id, recent_model_ids: [SMOL.id, QWEN.id],
    models: [SMOL, QWEN], statuses: [ready(SMOL)], memory: { ...s.memory, models_bytes: 287e6 },
    gateway: { ...s.gateway, requests_total: 1284 }, last_request: history()[0],
  }),
  mixed: (s) => ({
    ...s, server_state: 'busy', status_text: 'Qwen3 8B answers 2 requests', active_model_id: GEMMA.id, recent_model_ids: [QWEN.id, SMOL.id],
    models: [SMOL, QWEN, GEMMA, EMBED, AWAY, LONG], folders: USUAL_FOLDERS, left_out: LEFT_OUT,
    statuses: [ready(QWEN, { in_flight: 2 }), status(GEMMA.id, { state: 'waiting', waiting: 1 }), ready(EMBED), status(SMOL.id, {
      state: 'failed', error: { code: 'model_failed', message: 'llama-server ended with code 1 after 0.4 s: unknown argument --flash-atn.', remedy: 'Correct the extra arguments of this model, then try again.' } })],
    memory: { ...s.memory, models_bytes: 6.5e9 }, gateway: { ...s.gateway, requests_total: 90412 }, last_request: history()[0],
    settings: { ...s.settings, models: { [EMBED.id]: { pinned: true }, [SMOL.id]: { context_length: 4096, extra_args: ['--flash-atn', 'on'] } } },
    notices: [{ code: 'overlay', level: 'warning', message: 'models.user.toml is ignored: line 3 is no TOML.', remedy: 'Correct the file; it is read again at the next load.' }],
  }),
  thousand: (s) => ({
    ...s, models: MANY, active_model_id: MANY[3].id, server_state: 'ready', status_text: `${MANY[3].name} is ready`, statuses: [ready(MANY[3])],
    folders: [{ ...USUAL_FOLDERS[0], model_count: 1000 }], memory: { ...s.memory, models_bytes: 9e9 },
  }),
  loading: (s) => ({
    ...s, models: [SMOL, QWEN, EMBED], active_model_id: QWEN.id, server_state: 'starting', status_text: 'Loading Qwen3 8B',
    statuses: [status(QWEN.id, { state: 'loading', waiting: 1, pid: 5120 }), status(EMBED.id, { state: 'stopping' })], folders: USUAL_FOLDERS.slice(0, 2),
  }),
  failed: (s) => ({
    ...s, models: [SMOL, QWEN], active_model_id: QWEN.id, server_state: 'error', status_text: 'Qwen3 8B could not be loaded',
    statuses: [status(QWEN.id, { state: 'failed', error: { code: 'not_enough_memory', message: 'Qwen3 8B needs 6.2 GB with 8,192 tokens of context; 3.1 GB are free.', remedy: 'Close other programs, shorten its context length, or choose a smaller model.' } })],
    gateway: { ...s.gateway, state: 'blocked', error: { code: 'port_taken', message: 'Port 7070 is held by python3 (process 2214).', remedy: 'End that program, or choose another port in Settings.' } },
    notices: [{ code: 'port_taken', level: 'error', message: 'Port 7070 is held by python3 (process 2214).', remedy: 'End that program, or choose another port in Settings.' }],
  }),
  building: (s) => ({
    ...s, models: [SMOL], runtime: runtimes({ state: 'building', active: null, installed: [], job_id: 'j1' }), jobs: [job()], status_text: 'Building llama.cpp',
    server_state: 'starting',
  }),
  hostile: (s) => ({
    ...s, models: [HOSTILE, LONG, SMOL], active_model_id: HOSTILE.id, status_text: '<b>bold</b> is ready', server_state: 'ready', statuses: [ready(HOSTILE)],
    notices: [{ code: 'x', level: 'info', message: '<img src=x onerror=alert(3)>', remedy: '<a href="javascript:alert(4)">x</a>' }],
    left_out: [{ path: '/x/<iframe>.gguf', reason: '<script>alert(5)</script>' }],
  }),
};

// One small home with each state of its runtimes: one model on the GPU, one that fell back.
for (const [name, part] of Object.entries(RUNTIMES)) {
  SCENARIOS[name] = (s) => ({
    ...s, models: [SMOL, QWEN], active_model_id: QWEN.id, server_state: 'ready', status_text: 'Qwen3 8B is ready', folders: USUAL_FOLDERS.slice(0, 2),
    statuses: part.runtime.active ? [
      ready(QWEN, { runtime_id: VULKAN.id, offload: { requested: null, actual: 29, total: 37 } }),
      ready(SMOL, { pid: 41240, runtime_id: VULKAN.id, offload: { requested: 31, actual: 0, total: 31 } }),
    ] : [],
    settings: { ...s.settings, models: { [SMOL.id]: { runtime: 'b11434-cpu' } } }, ...part,
  });
}

export const scenarioNames = Object.keys(SCENARIOS);
export const snapshot = (name, port) => structuredClone((SCENARIOS[name] ?? SCENARIOS.two)(base(port)));

export function history() {
  return Array.from({ length: 14 }, (_, i) => ({
    model_id: i % 4 ? SMOL.id : QWEN.id, path: i === 3 ? '/v1/embeddings' : '/v1/chat/completions', status: i === 5 ? 503 : 200, started_at: NOW() - i * 47 - 3,
    wait_s: i === 2 ? 1.71 : 0, first_token_s: i === 5 ? null : 0.031 + i * 0.004, duration_s: 0.8 + i * 0.3, prompt_tokens: i === 5 ? null : 32 + i * 11,
    generated_tokens: i === 5 ? null : 118 + i, tokens_per_s: i === 5 ? null : 96.4 - i,
    prompt_tokens_per_s: i === 5 ? null : 410.5 + i, cached_tokens: i === 5 ? null : 20 + i,
  }));
}

export function usage(days, any = true) {
  const step = days > 2 ? 86400 : 3600;
  const until = NOW();
  const from = Math.floor((until - (days > 2 ? days - 1 : days) * 86400) / step) * step;
  const places = Math.floor((until - from) / step) + 1;
  const course = (every, speed) => Array.from({ length: places }, (_, i) => i).filter((i) => i % every !== 1).map((i) => ({
    start_at: from + i * step, requests: 3 + (i * 7) % 23, generated_tokens: 900 + (i * 131) % 700, tokens_per_s: speed * (0.8 + ((i * 37) % 40) / 100),
  }));
  const one = (model, every, speed, part) => ({
    model_id: model.id, requests: 311, failed: 0, last_at: until - 3, prompt_tokens: 120_412, cached_tokens: 88_200, generated_tokens: 40_961,
    longest_tokens: 3_204, tokens_per_s: speed, prompt_tokens_per_s: speed * 4.2, first_token_median_s: 0.042, first_token_p95_s: 0.31,
    buckets: course(every, speed), ...part,
  });
  const models = [one(SMOL, 5, 91.3, {}), one(QWEN, 3, 11.7, { requests: 96, failed: 4, first_token_median_s: 1.4, first_token_p95_s: 6.2 }),
    one(LONG, 2, 0, { requests: 2, tokens_per_s: null, prompt_tokens_per_s: null, first_token_median_s: null, first_token_p95_s: null, cached_tokens: 0 })];
  return { from_at: from, until_at: until, bucket_s: step, kept_from_at: from - 90_000, models: any ? models : [] };
}

export const slots = (status) => (status?.state !== 'ready' ? [] : Array.from({ length: 4 }, (_, id) => ({
  id, busy: id < status.in_flight, context_length: 8192, context_used: id < 3 ? 5200 - id * 2100 : 0,
})));

const benchRun = (id, part) => ({
  id, model_id: SMOL.id, model_size_bytes: SMOL.size_bytes, measured_at: NOW() - 90 - (9 - id) * 86_400, runtime_id: CPU.id, backend: 'cpu', build: 11434,
  device: 'AMD Ryzen 7 7840U', prompt_tokens: 512, generated_tokens: 128, repetitions: 3, prompt: { tokens_per_s: 466, stddev_per_s: 3.1 },
  generation: { tokens_per_s: 177.1, stddev_per_s: 5 }, in_memory: [], left_out: [], busy_percent: 1,
  settings: { threads: 8, gpu_layers: null, kv_cache_type: 'f16', flash_attention: 'auto', batch_size: 2048, ubatch_size: 512 }, ...part,
});

/** Measured speeds: of the small model twice here and once on another runtime. */
export function bench(id) {
  if (id !== SMOL.id) return { runs: [], models: [], running: null };
  const older = benchRun(8, { prompt: { tokens_per_s: 410, stddev_per_s: 12 }, generation: { tokens_per_s: 181, stddev_per_s: null } });
  const vulkan = benchRun(7, { runtime_id: VULKAN.id, device: 'Radeon 780M', prompt: { tokens_per_s: 1480, stddev_per_s: 9 } });
  const newest = benchRun(9, { in_memory: [QWEN.id], left_out: ['its draft model'], busy_percent: 34 });
  return {
    runs: [newest, older, vulkan], running: null,
    models: [{
      newest, previous: { run: older, prompt_ratio: 466 / 410, generation_ratio: 177.1 / 181, changes: ['KV cache f16, before q8_0'] },
      runtimes: [{ run: vulkan, prompt_ratio: 466 / 1480, generation_ratio: 1, changes: [] }],
    }],
  };
}

export function logText() {
  const lines = [];
  for (let i = 0; i < 300; i += 1) {
    lines.push(`0.${String(i).padStart(2, '0')}.${String(i * 137 % 1000).padStart(3, '0')}.201 ${i % 41 === 7 ? 'W' : i % 83 === 11 ? 'E' : 'I'} slot launch_slot_: id  0 | task ${i} | processing task, is_child = 0`);
  }
  lines.push('{"time":"2026-01-02T10:00:01.250Z","level":"WARNING","logger":"engine.residency","message":"unloading","model":"Qwen3 8B","idle_s":301}');
  return `${lines.join('\n')}\n`;
}

export const ANSWER = `# Three ways to count llamas

There are **several** ways, and *none* of them is \`perfect\`. See [the handbook](https://example.org/llamas) or https://example.org.

1. Count the ears and divide by two.
2. Count the legs and divide by four:
   - front legs first
   - then the hind legs, which are ~~slower~~ faster
3. Ask the llamas.

\`\`\`python
def count(herd: list[str]) -> int:
    """How many llamas are in the herd, however long this very long line of documentation becomes."""
    return sum(1 for animal in herd if animal == "llama")
\`\`\`

| Way | Error | Cost |
|-----|-------|------|
| Ears | 2 % | low |
| Legs | 4 % | *medium* |

> A llama that is counted twice is still one llama.

Inline HTML stays text: <img src=x onerror=alert(1)> and <script>alert(2)</script>.
`;
