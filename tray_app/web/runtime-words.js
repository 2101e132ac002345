// @ts-check
/** Runtimes (builds of llama.cpp) in words for people who never compiled anything. Pure. */

import { ago, bytes } from './format.js';

/** @typedef {import('./types.js').Runtime} Runtime */
/** @typedef {import('./types.js').Proof} Proof */
/** @typedef {import('./types.js').Offload} Offload */
/** @typedef {import('./types.js').Gpu} Gpu */
/** @typedef {import('./types.js').Hardware} Hardware */

/** A backend's short name, and what it is for. @type {Record<string, [string, string]>} */
const BACKENDS = {
  cuda: ['CUDA', 'for NVIDIA graphics cards'],
  rocm: ['ROCm', 'for AMD graphics cards'],
  vulkan: ['Vulkan', 'for nearly every graphics card'],
  sycl: ['SYCL', 'for Intel graphics'],
  opencl: ['OpenCL', 'for Qualcomm Adreno and Intel graphics'],
  metal: ['Metal', 'for Apple graphics'],
  cpu: ['Processor', 'works on every computer'],
};

/** @param {string} backend */
export const backendName = (backend) => (Object.hasOwn(BACKENDS, backend) ? BACKENDS[backend][0] : backend);
/** @param {string} backend */
export const backendHint = (backend) => (Object.hasOwn(BACKENDS, backend) ? BACKENDS[backend][1] : '');

/** @type {Record<string, string>} */
const ORIGINS = {
  settings: 'Chosen in Settings',
  environment: 'Named by the environment',
  built: 'Built on this computer',
  downloaded: 'Downloaded from the llama.cpp releases',
  path: 'Found among the installed programs',
  folder: 'Found in the runtimes folder',
  adopted: 'A build of yours',
};

/** @param {string} origin */
export const originText = (origin) => (Object.hasOwn(ORIGINS, origin) ? ORIGINS[origin] : origin);

/** Whether it lies in our own folder, so that we may remove it. @param {Runtime} runtime */
export const isOurs = (runtime) => runtime.origin === 'built' || runtime.origin === 'downloaded';

/** @param {{build: number | null}} runtime */
export const buildText = (runtime) => (runtime.build != null ? `b${runtime.build}` : 'of unknown build');

/** @param {Runtime} runtime e.g. "b11500, Vulkan" */
export const runtimeName = (runtime) => `${buildText(runtime)}, ${backendName(runtime.backend)}`;

/**
 * @param {number} actual layers on the GPU
 * @param {number} total
 */
function layersText(actual, total) {
  if (actual === 0) return 'on the processor';
  return `${actual} of ${total} layers on the GPU`;
}

/**
 * What the proof found, in one line.
 * @param {Proof | null} proof
 * @param {number} nowS
 * @returns {{tone: 'ok' | 'warn' | 'bad' | 'idle', text: string}}
 */
export function proofView(proof, nowS) {
  if (!proof) return { tone: 'idle', text: 'Not proven yet' };
  const when = ago(proof.proved_at, nowS);
  if (!proof.ok) {
    const why = proof.error?.message || (proof.missing_libraries.length ? `missing ${proof.missing_libraries.join(', ')}` : 'no reason was given.');
    return { tone: 'bad', text: `Failed ${when}: ${why}` };
  }
  const where = proof.layers_on_gpu != null && proof.layers != null ? `, ${layersText(proof.layers_on_gpu, proof.layers)}` : '';
  return { tone: proof.warnings.length ? 'warn' : 'ok', text: `Proven ${when}: loaded and answered${where}` };
}

/**
 * The same in one or two words, for a list.
 * @param {Proof | null} proof
 */
export function proofMark(proof) {
  if (!proof) return /** @type {const} */ ({ tone: 'plain', text: 'not proven' });
  return proof.ok ? /** @type {const} */ ({ tone: 'ok', text: 'proven' }) : /** @type {const} */ ({ tone: 'bad', text: 'failed its proof' });
}

/**
 * Where a loaded model computes. A GPU build that put nothing on the GPU, unasked, is a warning.
 * @param {Offload | null} offload
 * @param {Runtime | undefined} runtime the one it runs on
 * @returns {{text: string, tone: 'plain' | 'warn'} | null} null: not known
 */
export function offloadView(offload, runtime) {
  if (!offload) return runtime?.backend === 'cpu' ? { text: 'on the processor', tone: 'plain' } : null;
  const { requested, actual, total } = offload;
  const fewer = requested != null && actual < Math.min(requested, total);
  const fellBack = actual === 0 && requested !== 0 && runtime?.backend !== 'cpu';
  return { text: layersText(actual, total), tone: fewer || fellBack ? 'warn' : 'plain' };
}

/** @param {Gpu} gpu e.g. "12.0 GB, driver 570.86, compute capability 8.9" */
export function gpuFacts(gpu) {
  if (gpu.vendor === 'software') return 'no real GPU: the processor imitates one';
  const memory = gpu.memory_bytes == null ? 'memory not known' : bytes(gpu.memory_bytes);
  return [
    gpu.integrated ? `${memory}, shared with the computer` : memory,
    gpu.driver && `driver ${gpu.driver}`,
    gpu.compute_capability && `compute capability ${gpu.compute_capability}`,
    gpu.gfx_target,
  ].filter(Boolean).join(' · ');
}

/**
 * What the graphics add to main memory, as far as their own tools tell it; none of them tells here how much is free.
 * @param {Hardware | null | undefined} hardware
 * @returns {string[]} e.g. "NVIDIA RTX 4090 has 24.0 GB of its own."
 */
export function gpuMemory(hardware) {
  return (hardware?.gpus ?? []).flatMap(({ name, vendor, integrated, memory_bytes: size }) => {
    if (vendor === 'software' || size == null) return [];
    return [integrated ? `${name} may take up to ${bytes(size)} of it.` : `${name} has ${bytes(size)} of its own.`];
  });
}

/** @param {Hardware} hardware e.g. "16 cores, 32 threads" */
export function cpuFacts({ cpu_cores: cores, cpu_threads: threads }) {
  const parts = [];
  if (cores != null) parts.push(`${cores} ${cores === 1 ? 'core' : 'cores'}`);
  if (threads != null && threads !== cores) parts.push(`${threads} threads`);
  return parts.join(', ');
}

/** Versions of what GPUs are reached through. @param {Hardware} hardware */
export function layersBelow(hardware) {
  return [
    hardware.cuda && `CUDA up to ${hardware.cuda}`,
    hardware.rocm && `ROCm ${hardware.rocm}`,
    hardware.vulkan && `Vulkan ${hardware.vulkan}`,
    hardware.level_zero && 'Level Zero',
    hardware.opencl && 'OpenCL',
  ].filter(Boolean).join(' · ');
}

/** @param {{backend: string, variant: string}} choice e.g. "CUDA 12.8" */
export const choiceName = ({ backend, variant }) => [backendName(backend), variant].filter(Boolean).join(' ');

/**
 * What a model may run on.
 * @param {import('./types.js').RuntimeStatus} status
 * @param {string} chosen its id; '' follows the active one
 * @returns {[string, string][]}
 */
export function runtimeOptions({ active, installed }, chosen) {
  /** @type {[string, string][]} */
  const options = [['', active ? `The active one (${runtimeName(active)})` : 'The active one']];
  for (const one of installed) options.push([one.id, `${one.id} (${backendName(one.backend)})`]);
  if (chosen && !installed.some((one) => one.id === chosen)) options.push([chosen, `${chosen} (not installed)`]);
  return options;
}
