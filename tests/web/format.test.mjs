import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as f from '../../tray_app/web/format.js';
import { adaptersOf, changesOf, memoryWords, toForm } from '../../tray_app/web/model-form.js';

const status = (part) => ({ state: 'unloaded', in_flight: 0, waiting: 0, retry_at: null, ...part });

test('sizes step to the next unit and keep three digits', () => {
  assert.equal(f.bytes(0), '0 B');
  assert.equal(f.bytes(999), '999 B');
  assert.equal(f.bytes(98_800_000), '98.8 MB');
  assert.equal(f.bytes(999_600), '1.0 MB');
  assert.equal(f.bytes(5_027_783_488), '5.0 GB');
  assert.equal(f.bytes(146_000_000), '146 MB');
});

test('an unknown value is a dash, never zero', () => {
  for (const show of [f.bytes, f.integer, f.contextShort, f.clock, f.duration, f.speed]) assert.equal(show(null), f.DASH);
  assert.equal(f.bytes(NaN), f.DASH);
  assert.equal(f.parameters({ parameter_count: null, size_label: null }), f.DASH);
});

test('large counts are told at a glance', () => {
  assert.deepEqual([0, 9_204, 120_412, 999_499, 999_500, 1_250_000, 40e6, 2.5e9].map(f.countShort),
    ['0', '9,204', '120k', '999k', '1.0M', '1.3M', '40M', '2.5B']);
  assert.equal(f.countShort(null), '–');
});

test('context lengths are counted in 1024', () => {
  assert.equal(f.contextShort(8192), '8k');
  assert.equal(f.contextShort(131_072), '128k');
  assert.equal(f.contextShort(512), '512');
  assert.equal(f.contextShort(1_048_576), '1M');
});

test('parameter counts read as people say them', () => {
  assert.equal(f.parameters({ parameter_count: 8_190_735_360, size_label: '8B' }), '8.2B');
  assert.equal(f.parameters({ parameter_count: 134_515_008, size_label: null }), '135M');
  assert.equal(f.parameters({ parameter_count: 3e9, size_label: null }), '3B');
  assert.equal(f.parameters({ parameter_count: null, size_label: '8x7B' }), '8x7B');
});

test('clocks and durations do not run backwards or show negative numbers', () => {
  assert.equal(f.clock(-3), '0:00');
  assert.equal(f.clock(3723), '1:02:03');
  assert.equal(f.duration(0.085), '85 ms');
  assert.equal(f.duration(250), '4 min 10 s');
  assert.equal(f.ago(100, 90), 'just now');
  assert.equal(f.ago(0, 90_000), 'yesterday');
});

test('a quantization is explained in plain words, an odd one is only named', () => {
  assert.match(f.quantizationHint('Q4_K_M'), /about 4 bits.*balance/);
  assert.match(f.quantizationHint('F16'), /full 16 bits/);
  assert.match(f.quantizationHint('IQ1_S'), /less accurate/);
  assert.equal(f.quantizationHint("';--"), "Weights are stored as ';--.");
  assert.match(f.quantizationHint(null), /not known/);
});

test('a state is told with its counts', () => {
  const here = { available: true };
  assert.equal(f.statusView(here, status({ state: 'ready', in_flight: 2, waiting: 1 }), 0).text, 'Answering 2 requests, 1 waiting');
  assert.equal(f.statusView(here, status({ state: 'ready' }), 0).text, 'Ready');
  assert.equal(f.statusView(here, status({ state: 'backoff', retry_at: 12.2 }), 10).text, 'Trying again in 3 s');
  assert.equal(f.statusView({ available: false }, status({}), 0).tone, 'off');
});

test('arguments are split at spaces but not inside quotes, and come back the same', () => {
  assert.deepEqual(f.splitArgs('--flash-attn on  --name "a b" --x=\'c d\''), ['--flash-attn', 'on', '--name', 'a b', '--x=c d']);
  const words = ['--grammar', 'root ::= "a\\b" | \'c\'', '-x', ''];
  assert.deepEqual(f.splitArgs(f.joinArgs(words)), words);
  assert.deepEqual(f.splitArgs(''), []);
});

test('the memory estimate adds the cache for the context', () => {
  assert.equal(f.memoryEstimate({ size_bytes: 100, kv_bytes_per_token: 2 }, 10), 120);
  assert.equal(f.memoryEstimate({ size_bytes: 100, kv_bytes_per_token: null }, 10), 100);
});

test('beside its name, the model in use has a short state that does not repeat it', () => {
  const say = (part, running = 0, model = { available: true }) => f.activeText(model, status(part), running);
  assert.equal(say({ state: 'ready' }), 'Ready');
  assert.equal(say({ state: 'loading' }), 'Loading…');
  assert.equal(say({ state: 'ready', in_flight: 2 }, 2), 'Answering 2 requests');
  assert.equal(say({ state: 'ready' }, 1), 'Ready', 'another model answers');
  assert.equal(say({ state: 'waiting' }, 1), 'Loads when 1 request has ended');
  assert.equal(say({ state: 'failed', error: { code: 'x', message: 'No memory.', remedy: '' } }), 'Failed: No memory.');
  assert.equal(say({}), 'Loads on first request');
  assert.equal(say({}, 0, { available: false }), 'File not reachable');
});

test('a model’s settings go into the form and come back unchanged', () => {
  const own = {
    context_length: 4096, temperature: 0.7, idle_unload_s: 90, kv_cache_type: 'q8_0', lora: { '/a b.gguf': 1, '/c = d.gguf': 0.5 },
    extra_args: ['--swa-full'], draft_model: 'org/small:Q4', never_keep: true,
  };
  const form = toForm(own);
  const empty = toForm({});
  assert.deepEqual(changesOf(form, empty), own);
  assert.deepEqual(changesOf(empty, form), {
    context_length: null, temperature: null, idle_unload_s: null, kv_cache_type: null, lora: {}, extra_args: [], draft_model: null, never_keep: false,
  });
  assert.equal(form.idle_unload_s, '1.5');
  assert.equal(form.lora, '/a b.gguf\n/c = d.gguf = 0.5');
});

test('what is no number goes to the engine as it was typed, to be refused there', () => {
  assert.deepEqual(changesOf({ temperature: 'hot', idle_unload_s: 'soon' }, { temperature: '', idle_unload_s: '' }), {
    temperature: 'hot', idle_unload_s: 'soon',
  });
});

test('of an adapter’s line only a number after the last “ = ” is a scale', () => {
  assert.deepEqual(adaptersOf(' /a.gguf \n\n/b=c.gguf\n/d.gguf = -0.25\n/e.gguf = big'), {
    '/a.gguf': 1, '/b=c.gguf': 1, '/d.gguf': -0.25, '/e.gguf = big': 1,
  });
});

test('what a model takes is said in one line, with what does not fit', () => {
  const told = {
    context_wished: 8192, context_length: 8192, weights_bytes: 98e6, kv_cache_bytes: 185e6, compute_bytes: 114e6, beside_bytes: 0,
    total_bytes: 397e6, budget_bytes: 16e9, measured: true, gpu_layers: null,
  };
  assert.equal(memoryWords(told), 'Takes 397 MB: weights 98.0 MB, KV cache 185 MB, compute 114 MB.');
  const tight = memoryWords({ ...told, measured: false, context_length: 4096, beside_bytes: 1e6, budget_bytes: 1e8 });
  assert.match(tight, /^Takes about 397 MB: .*, further files 1\.0 MB\. The context comes to 4,096 of 8,192 tokens\. That is more than models may hold now, 100 MB\.$/);
});
