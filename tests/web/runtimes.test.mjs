import assert from 'node:assert/strict';
import { test } from 'node:test';
import { firstOffer, newestOf, preferred, rungViews } from '../../tray_app/web/rungs.js';
import * as w from '../../tray_app/web/runtime-words.js';
import { pageOf, PAGES } from '../../tray_app/web/router.js';
import { changesOf } from '../../tray_app/web/model-form.js';
import { snapshot } from './fixture_data.mjs';
import { available, CPU, proof, runtime, RUNTIMES, status, VULKAN } from './fixture_runtimes.mjs';

const of = (name) => RUNTIMES[name].runtime;
const views = (name, wish = null, offers = available(name, of(name))) => rungViews(of(name), offers, wish);
const one = (list, backend) => list.find((view) => view.rung.backend === backend);

test('the runtimes page stands between the server and the chat', () => {
  assert.equal(pageOf('#/runtimes'), 'runtimes');
  assert.deepEqual(PAGES.slice(PAGES.indexOf('server'), PAGES.indexOf('chat') + 1), ['server', 'connect', 'runtimes', 'chat']);
});

test('a proof says when, and how much of it ran on the GPU', () => {
  const say = (part) => w.proofView(proof({ proved_at: 1000, ...part }), 1180);
  assert.deepEqual(say({ layers_on_gpu: 3, layers: 3 }), { tone: 'ok', text: 'Proven 3 min ago: loaded and answered, 3 of 3 layers on the GPU' });
  assert.match(say({ layers_on_gpu: 0, layers: 3 }).text, /, on the processor$/);
  assert.equal(say({}).text, 'Proven 3 min ago: loaded and answered', 'nothing is said about layers that are not known');
  assert.equal(say({ warnings: ['It lists no GPU.'] }).tone, 'warn');
});

test('a proof that failed names its reason or the libraries it misses', () => {
  const say = (part) => w.proofView(proof({ ok: false, proved_at: 0, ...part }), 60);
  assert.deepEqual(say({ error: { code: 'x', message: 'It lists no GPU.', remedy: '' } }), { tone: 'bad', text: 'Failed 1 min ago: It lists no GPU.' });
  assert.match(say({ missing_libraries: ['libcublas.so.12'] }).text, /missing libcublas\.so\.12$/);
  assert.match(say({}).text, /no reason was given/);
  assert.deepEqual(w.proofView(null, 0), { tone: 'idle', text: 'Not proven yet' });
});

test('layers are told as they are, and only an unasked fall to the processor is a warning', () => {
  const say = (offload, on = VULKAN) => w.offloadView(offload, on);
  assert.deepEqual(say({ requested: null, actual: 29, total: 29 }), { text: '29 of 29 layers on the GPU', tone: 'plain' });
  assert.deepEqual(say({ requested: null, actual: 20, total: 29 }), { text: '20 of 29 layers on the GPU', tone: 'plain' }, 'as many as fit');
  assert.deepEqual(say({ requested: null, actual: 0, total: 29 }), { text: 'on the processor', tone: 'warn' });
  assert.equal(say({ requested: 29, actual: 12, total: 29 }).tone, 'warn');
  assert.equal(say({ requested: 99, actual: 29, total: 29 }).tone, 'plain', '99 asks for all there are');
  assert.equal(say({ requested: 0, actual: 0, total: 29 }).tone, 'plain', 'the user wished it so');
  assert.equal(say({ requested: null, actual: 0, total: 29 }, CPU).tone, 'plain', 'a build for the processor');
});

test('where nothing was told about layers, only a build for the processor says where it computes', () => {
  assert.equal(w.offloadView(null, VULKAN), null);
  assert.equal(w.offloadView(null, undefined), null);
  assert.deepEqual(w.offloadView(null, CPU), { text: 'on the processor', tone: 'plain' });
});

test('unknown facts of a GPU are said to be unknown or left out, never invented', () => {
  const [nvidia, amd] = of('rt-tower').hardware.gpus;
  assert.equal(w.gpuFacts(nvidia), '12.9 GB · driver 570.86.16 · compute capability 8.9');
  assert.equal(w.gpuFacts(amd), 'memory not known, shared with the computer · driver Mesa 24.2.8 · gfx1036');
  assert.match(w.gpuFacts({ ...amd, vendor: 'software' }), /^no real GPU/);
  assert.equal(w.cpuFacts({ cpu_cores: null, cpu_threads: null }), '');
  assert.equal(w.cpuFacts({ cpu_cores: 1, cpu_threads: 1 }), '1 core');
  assert.equal(w.layersBelow({ cuda: null, rocm: null, vulkan: null, level_zero: null, opencl: null }), '');
});

test('the memory of graphics is told where their own tools tell it', () => {
  const { hardware } = of('rt-tower');
  const [nvidia, amd] = hardware.gpus;
  assert.deepEqual(w.gpuMemory(hardware), [`${nvidia.name} has 12.9 GB of its own.`]);
  assert.deepEqual(w.gpuMemory({ ...hardware, gpus: [{ ...amd, memory_bytes: 8e9 }] }), [`${amd.name} may take up to 8.0 GB of it.`]);
  assert.deepEqual(w.gpuMemory({ ...hardware, gpus: [{ ...nvidia, vendor: 'software' }] }), []);
  assert.deepEqual(w.gpuMemory(null), []);
});

test('a backend or an origin of a newer engine is shown by its own name', () => {
  assert.equal(w.backendName('cpu'), 'Processor');
  assert.equal(w.backendName('tpu'), 'tpu');
  assert.equal(w.backendHint('tpu'), '');
  assert.equal(w.backendName('constructor'), 'constructor', 'no inherited name is taken for a backend');
  assert.equal(w.originText('toString'), 'toString');
  assert.equal(w.runtimeName({ ...CPU, build: null }), 'of unknown build, Processor');
});

test('each rung offers what fits it: a download, a build, or what a build lacks', () => {
  const list = views('rt-tower');
  const cuda = one(list, 'cuda');
  assert.deepEqual([cuda.best, cuda.inUse, cuda.use, cuda.install, cuda.build], [true, false, null, null, null]);
  assert.match(cuda.wants.install_command, /nvidia-cuda-toolkit/);
  const vulkan = one(list, 'vulkan');
  assert.equal(vulkan.inUse, true);
  assert.deepEqual([vulkan.install.tag, vulkan.install.size_bytes, vulkan.upgrade], ['b11520', 34_600_000, true]);
  const cpu = one(list, 'cpu');
  assert.equal(cpu.use.id, 'b11434-cpu');
  assert.ok(cpu.build.usable);
});

test('a rung that is not usable asks for no tools and offers no download', () => {
  const sycl = one(views('rt-tower'), 'sycl');
  assert.deepEqual([sycl.install, sycl.wants, sycl.best], [null, null, false]);
});

test('a release as old as what is installed is no offer', () => {
  const held = status({ installed: [runtime({ id: 'b11520-vulkan', build: 11520, backend: 'vulkan' }), CPU] });
  const vulkan = one(rungViews(held, available('rt-laptop', held), null), 'vulkan');
  assert.equal(vulkan.install, null);
  assert.equal(vulkan.use.id, 'b11520-vulkan');
});

test('before the releases are known, only what is installed is offered', () => {
  const list = views('rt-tower', null, null);
  assert.ok(list.every((view) => !view.install && !view.build && !view.wants));
  assert.equal(one(list, 'cpu').use.id, 'b11434-cpu');
});

test('a runtime that failed its proof does not count as the installed one', () => {
  const bad = runtime({ id: 'b2', build: 99999, proof: proof({ ok: false }) });
  assert.equal(newestOf([bad, CPU], 'cpu'), CPU);
  assert.equal(newestOf([bad], 'cpu'), null);
});

test("the user's wish goes before the order of the ladder", () => {
  assert.equal(preferred(of('rt-tower').ladder, null), 'cuda');
  assert.equal(preferred(of('rt-tower').ladder, 'vulkan'), 'vulkan');
  assert.equal(preferred([], null), null);
  const list = views('rt-tower', 'cpu');
  assert.deepEqual(list.filter((view) => view.best).map((view) => view.rung.backend), ['cpu']);
});

test('the first offer is a download where there is one, else a build, else nothing', () => {
  assert.equal(firstOffer(views('rt-missing')).install.backend, 'vulkan');
  const offline = { ...available('rt-missing', of('rt-missing')), releases: [] };
  const build = firstOffer(views('rt-missing', null, offline));
  assert.equal(build.rung.backend, 'cpu');
  assert.ok(build.build && !build.install);
  assert.equal(firstOffer(views('rt-missing', null, { ...offline, buildable: [] })), null);
});

test('a model may name any installed runtime, and one that is gone stays visible', () => {
  const held = of('rt-tower');
  assert.deepEqual(w.runtimeOptions(held, '')[0], ['', 'The active one (b11500, Vulkan)']);
  assert.equal(w.runtimeOptions(held, 'b11434-cpu').length, held.installed.length + 1);
  assert.deepEqual(w.runtimeOptions(held, 'b1-cuda').at(-1), ['b1-cuda', 'b1-cuda (not installed)']);
  assert.deepEqual(w.runtimeOptions({ ...held, active: null, installed: [] }, ''), [['', 'The active one']]);
});

test('a model goes back to the active runtime with null', () => {
  assert.deepEqual(changesOf({ runtime: '' }, { runtime: 'b11434-cpu' }), { runtime: null });
  assert.deepEqual(changesOf({ runtime: 'b11434-cpu' }, { runtime: '' }), { runtime: 'b11434-cpu' });
});

test('every made-up state has the fields that the engine sends', () => {
  const fields = Object.keys(of('rt-laptop')).sort();
  for (const name of Object.keys(RUNTIMES)) assert.deepEqual(Object.keys(snapshot(name, 7070).runtime).sort(), fields, name);
});
