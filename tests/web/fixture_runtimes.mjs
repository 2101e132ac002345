// Made-up machines and their runtimes: what the engine would say of them.

const NOW = () => Date.now() / 1000;
const HOME = '/home/maya/.llama-wrangler';
const DAY = 86400;

const gpu = (part) => ({
  name: '', vendor: 'unknown', memory_bytes: null, integrated: null, driver: null, compute_capability: null, gfx_target: null, bus_id: null, vulkan: null, ...part,
});
const hardware = (part) => ({
  system: 'linux', arch: 'x86_64', cpu_name: 'AMD Ryzen 9 7950X', cpu_cores: 16, cpu_threads: 32, cpu_features: ['sse4.2', 'avx', 'avx2', 'fma', 'f16c', 'avx512f'],
  memory_bytes: 67_108_864_000, gpus: [], cuda: null, rocm: null, vulkan: null, level_zero: false, opencl: false, kfd: null, problems: [], read_at: NOW() - 95, ...part,
});
const LAPTOP = hardware({
  cpu_name: 'Intel(R) Core(TM) i7-1165G7 @ 2.80GHz', cpu_cores: 4, cpu_threads: 8, cpu_features: ['sse4.2', 'avx', 'avx2', 'fma', 'f16c'], memory_bytes: 16_577_000_000,
  gpus: [gpu({ name: 'Intel Iris Xe Graphics (TGL GT2)', vendor: 'intel', integrated: true, memory_bytes: 8_288_000_000, driver: 'Mesa 24.2.8', bus_id: '0000:00:02.0' })], vulkan: '1.3.289',
});
const TOWER = hardware({
  gpus: [
    gpu({ name: 'NVIDIA GeForce RTX 4070', vendor: 'nvidia', memory_bytes: 12_878_610_432, integrated: false, driver: '570.86.16', compute_capability: '8.9', bus_id: '0000:01:00.0' }),
    gpu({ name: 'AMD Radeon Graphics (RADV RAPHAEL_MENDOCINO)', vendor: 'amd', integrated: true, driver: 'Mesa 24.2.8', gfx_target: 'gfx1036', bus_id: '0000:10:00.0' }),
  ],
  cuda: '12.8', vulkan: '1.3.296',
});

const rung = (backend, usable, reason, gpus = []) => ({ backend, usable, reason, gpus });
const TOWER_LADDER = [
  rung('cuda', true, 'NVIDIA GeForce RTX 4070: its driver 570.86.16 runs CUDA 12.8.', ['NVIDIA GeForce RTX 4070']),
  rung('rocm', false, 'ROCm is not installed, and gfx1036 is not among the GPUs it supports.'),
  rung('vulkan', true, 'Two GPUs are reached through Vulkan 1.3.296.', ['NVIDIA GeForce RTX 4070', 'AMD Radeon Graphics (RADV RAPHAEL_MENDOCINO)']),
  rung('sycl', false, 'There is no Intel GPU.'),
  rung('opencl', false, "llama.cpp's OpenCL backend is for Qualcomm Adreno and Intel GPUs."),
  rung('cpu', true, 'Works on every computer; this one has AVX-512.'),
];
const LAPTOP_LADDER = [
  rung('cuda', false, 'There is no NVIDIA GPU.'),
  rung('rocm', false, 'There is no AMD GPU.'),
  rung('vulkan', true, 'Intel Iris Xe Graphics (TGL GT2) is reached through Vulkan 1.3.289.', ['Intel Iris Xe Graphics (TGL GT2)']),
  rung('sycl', false, "Intel's compute runtime (Level Zero) is not installed."),
  rung('opencl', false, "llama.cpp's OpenCL backend is for Qualcomm Adreno and Intel GPUs."),
  rung('cpu', true, 'Works on every computer; this one has AVX2.'),
];

export const proof = (part) => ({
  ok: true, proved_at: NOW() - 190, devices: [], layers_on_gpu: null, layers: null, load_s: 0.21, error: null, warnings: [], missing_libraries: [], ...part,
});
export const runtime = (part) => ({
  id: 'b11434-cpu', build: 11434, backend: 'cpu', server_path: `${HOME}/runtimes/${part.id ?? 'b11434-cpu'}/llama-server`, origin: 'built',
  version_text: 'version: 11434 (4d1e0f3)\nbuilt with cc (Debian 12.2.0) 12.2.0 for x86_64-linux-gnu', devices: [],
  proof: proof({ proved_at: NOW() - 3 * DAY, layers_on_gpu: 0, layers: 3 }), size_bytes: 61_300_000, installed_at: NOW() - 21 * DAY,
  made_from: 'llama.cpp b11434, source of the release, gcc 12.2.0, cmake 3.25.1, -DGGML_NATIVE=ON', ...part,
});
export const CPU = runtime({});
export const VULKAN = runtime({
  id: 'b11500-vulkan-release', build: 11500, backend: 'vulkan', origin: 'downloaded', devices: ['Vulkan0: NVIDIA GeForce RTX 4070 (12282 MiB, 11640 MiB free)'],
  version_text: 'version: 11500 (9f0c1d2)', proof: proof({ layers_on_gpu: 3, layers: 3, devices: ['Vulkan0: NVIDIA GeForce RTX 4070 (12282 MiB, 11640 MiB free)'] }),
  size_bytes: 96_400_000, installed_at: NOW() - 260, made_from: 'llama-b11500-bin-ubuntu-vulkan-x64.tar.gz of release b11500, sha256 3e5f…c801',
});
const BREW = runtime({
  id: 'b11210-cpu-5ac3e1', build: 11210, origin: 'path', server_path: '/home/linuxbrew/.linuxbrew/bin/llama-server', version_text: 'version: 11210 (77ab310)', proof: null,
  size_bytes: null, installed_at: null, made_from: null,
});
const BROKEN = runtime({
  id: 'b11480-rocm-release', build: 11480, backend: 'rocm', origin: 'downloaded', size_bytes: 412_000_000, installed_at: NOW() - 4 * DAY, version_text: '',
  proof: proof({ ok: false, proved_at: NOW() - 4 * DAY, load_s: null, missing_libraries: ['libamdhip64.so.6', 'librocblas.so.4'], error: { code: 'runtime_rejected', message: 'It needs libamdhip64.so.6 and librocblas.so.4, which are not there.', remedy: 'Install ROCm 6, or use the Vulkan build.' } }),
});
const REJECTED = [
  { path: '/usr/local/bin/llama-server', reason: 'It is build 3120 and has no --fit; builds from 7000 on do.' },
  { path: '/opt/lm/llama-server', reason: 'It ended with “error while loading shared libraries: libcublas.so.12”.' },
];

export const NOTES = `## b11520

- **Vulkan**: faster matrix products on Ada GPUs (#18412)
- server: keep the slot's prompt when a client reconnects (#18390)
- \`llama-bench\`: report the peak memory

<details><summary>sha256</summary> <img src=x onerror=alert(1)>

See [the whole list](https://github.com/ggml-org/llama.cpp/releases/tag/b11520).`;

const UPDATE = {
  build: 11520, tag: 'b11520', backend: 'vulkan', published_at: NOW() - 0.6 * DAY, notes: NOTES, url: 'https://github.com/ggml-org/llama.cpp/releases/tag/b11520',
  size_bytes: 34_600_000, told: true,
};

export const status = (part) => ({
  state: 'ready', active: CPU, job_id: null, error: null, rejected: [], installed: [CPU], previous_id: null, on_trial: false, rolled_back: null,
  hardware: LAPTOP, ladder: LAPTOP_LADDER, stepped_down: [], update: null, ...part,
});

const tower = (part) => status({ active: VULKAN, installed: [VULKAN, CPU, BREW], previous_id: 'b11434-cpu', hardware: TOWER, ladder: TOWER_LADDER, ...part });

const job = (part) => ({
  id: 'r1', kind: 'install_runtime', title: 'Installing llama.cpp b11520 for Vulkan', state: 'running', step: 'Downloading llama-b11520-bin-ubuntu-vulkan-x64.tar.gz', done: 21_400_000,
  total: 34_600_000, unit: 'bytes', rate_per_s: 5_800_000, eta_s: 2.4, created_at: NOW() - 5, finished_at: null, log_name: 'install-runtime.log', error: null, ...part,
});
const BUILD = job({
  id: 'r2', kind: 'build_runtime', title: 'Building llama.cpp b11434 for CUDA', step: 'Compiling ggml-cuda/fattn-vec-f16.cu', done: 163, total: 412, unit: 'steps', rate_per_s: 0.4,
  eta_s: 622, created_at: NOW() - 480, log_name: 'build-runtime.log',
});
const FAILED = job({
  id: 'r3', kind: 'build_runtime', title: 'Building llama.cpp b11434 for CUDA', state: 'failed', step: '', finished_at: NOW() - 40, log_name: 'build-runtime.log', created_at: NOW() - 700,
  error: { code: 'runtime_build_failed', message: 'The compiler ended with status 1 at step 88 of 412: nvcc fatal: Unsupported gpu architecture ‘compute_120a’.', remedy: 'Install CUDA 12.8 or newer, or use the Vulkan build. The log below has the whole output.' },
});

/** Parts of a snapshot, by the scenario's name. */
export const RUNTIMES = {
  'rt-laptop': { runtime: status({}) },
  'rt-searching': { runtime: status({ state: 'searching', active: null, installed: [], hardware: null, ladder: [] }) },
  'rt-missing': { server_state: 'error', status_text: 'llama.cpp is not installed', runtime: status({ state: 'missing', active: null, installed: [], rejected: REJECTED }), notices: [{ code: 'runtime_missing', level: 'error', message: 'There is no llama.cpp to run models with.', remedy: 'Open Runtimes to install one.' }] },
  'rt-tower': { runtime: tower({ update: UPDATE, on_trial: true, rejected: REJECTED, installed: [VULKAN, BROKEN, CPU, BREW] }) },
  'rt-installing': { runtime: tower({ update: UPDATE, job_id: 'r1' }), jobs: [job({})] },
  'rt-building': { runtime: tower({ job_id: 'r2' }), jobs: [BUILD, job({ id: 'r4', state: 'queued', step: '', done: 0, total: null, created_at: NOW() - 2, log_name: null, rate_per_s: null, eta_s: null })] },
  'rt-failed': { runtime: tower({ error: FAILED.error }), jobs: [FAILED] },
  'rt-rolled-back': {
    runtime: tower({
      active: CPU, installed: [VULKAN, CPU], previous_id: null,
      rolled_back: { runtime_id: 'b11500-vulkan-release', model_id: 'Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M', back_to: 'b11434-cpu', at: NOW() - 130, error: { code: 'model_failed', message: 'llama-server ended with signal 11 while it loaded the model.', remedy: 'Wait for a newer release, or build this one from source.' } },
    }),
    notices: [{ code: 'runtime_rolled_back', level: 'error', message: 'b11500-vulkan-release failed with Qwen3 8B; b11434-cpu is back.', remedy: 'Open Runtimes for the reason.' }],
  },
  'rt-stepped-down': { runtime: tower({ stepped_down: ['cuda: nvcc fatal: Unsupported gpu architecture ‘compute_120a’ (build-runtime.log).'] }) },
  'rt-feed-down': { runtime: tower({}) },
  'rt-slow': { runtime: tower({}) },
  'rt-unproven': { runtime: status({ active: runtime({ id: 'b11210-vulkan-5ac3e1', build: null, backend: 'vulkan', origin: 'adopted', version_text: 'version: unknown', server_path: '/home/maya/src/llama.cpp/build/bin/llama-server', proof: proof({ layers_on_gpu: 0, layers: 3, warnings: ['It lists no GPU, though Intel Iris Xe Graphics (TGL GT2) is there: everything runs on the processor.'] }) }) }) },
  'rt-hostile': { runtime: tower({
    update: { ...UPDATE, tag: '<b>b1</b>', notes: '<script>alert(1)</script> [x](javascript:alert(2))', url: 'javascript:alert(3)' },
    active: runtime({ id: '<img src=x onerror=alert(1)>', devices: ['<svg onload=alert(1)>'], server_path: '/x/<iframe>/llama-server', made_from: '"><script>' }),
    hardware: hardware({ cpu_name: '<img src=x onerror=alert(1)>'.repeat(6), gpus: [gpu({ name: 'a-gpu-with-a-name-that-has-no-space-and-never-ends-'.repeat(4) })], problems: ['nvidia-smi said <b>no</b>.'] }),
  }) },
};

const choice = (part) => ({ backend: 'cpu', variant: '', size_bytes: 16_200_000, usable: true, reason: '', runtime_id: '', installed: false, ...part });

// What `available_runtimes` says in a scenario whose runtimes are `held`.
export function available(scenario, held, refreshed = false) {
  const ids = new Set(held.installed.map((one) => one.id));
  const usable = new Map(held.ladder.map((one) => [one.backend, one]));
  const of = (build, backend, size, variant = '') => {
    const id = `b${build}-${backend}-release`;
    const here = usable.get(backend);
    return choice({ backend, variant, size_bytes: size, usable: here?.usable ?? false, reason: here?.reason ?? '', runtime_id: id, installed: ids.has(id) });
  };
  const release = (build, age) => ({
    tag: `b${build}`, build, published_at: NOW() - age * DAY, notes: NOTES, url: `https://github.com/ggml-org/llama.cpp/releases/tag/b${build}`,
    choices: [of(build, 'rocm', 288_000_000, '7.2'), of(build, 'vulkan', 34_600_000), of(build, 'sycl', 118_000_000), of(build, 'cpu', 16_200_000)],
  });
  const down = scenario === 'rt-feed-down';
  const tools = scenario !== 'rt-laptop';
  return {
    checked_at: down ? NOW() - 2 * DAY : refreshed ? NOW() : NOW() - 2400,
    error: down ? { code: 'download_failed', message: 'The list of releases could not be reached: api.github.com answered 403, the limit of 60 questions an hour is used up.', remedy: 'It is asked again in 38 minutes.' } : null,
    releases: held.ladder.length ? [release(11520, 0.6), release(11500, 2.1), release(11471, 4.4), release(11434, 7.9)] : [],
    buildable: held.ladder.map(({ backend }) => (
      backend === 'cuda' ? { backend, usable: false, reason: 'The CUDA toolkit is missing.', missing: ['the CUDA toolkit (nvcc)'], install_command: 'sudo apt-get install nvidia-cuda-toolkit' }
        : backend === 'vulkan' && tools ? { backend, usable: false, reason: 'Parts are missing.', missing: ["Vulkan's headers", 'the shader compiler glslc'], install_command: 'sudo apt-get install libvulkan-dev glslc' }
          : { backend, usable: tools && backend === 'cpu', reason: tools ? '' : 'Tools are missing.', missing: tools ? [] : ['CMake', 'a C++ compiler'], install_command: tools ? '' : 'sudo apt-get install cmake g++' })),
    source_build: 11434,
  };
}
