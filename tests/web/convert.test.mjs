// What the Convert page works out by itself.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { against, FIRST, makingArgs, overridesOf, room, stepsOf } from '../../tray_app/web/convert-state.js';
import { against as againstType } from '../../tray_app/web/views/quantize-options.js';
import { pageOf, referenceOf } from '../../tray_app/web/router.js';

const GB = 1e9;
const converter = { ready: false, installing: false, size_bytes: 0, install_bytes: 1.2 * GB, python: '3.11', problem: '', remedy: '' };
const target = (label, size, needs = false) => ({ label, about: 'x', size_bytes: size, bits_per_weight: 4, fallbacks: 0, needs_imatrix: needs, model_id: null });
const plan = (more = {}) => ({
  source: 'org/repo', place: 'hub', name: 'repo', title: 'Original weights.', problem: '', remedy: '', warnings: [], architecture: 'LlamaForCausalLM',
  parameters: 1e9, context_length: 8192, tokenizer: 'bpe', has_chat_template: true, vision: false, lora: false, base: null,
  original_bytes: 2 * GB, download_bytes: 2 * GB, full_bytes: 2 * GB, free_bytes: 50 * GB,
  targets: [target('Q8_0', 1.1 * GB), target('Q4_K_M', 0.6 * GB), target('IQ2_XXS', 0.3 * GB, true)],
  converter, convert_s: 65, quantize_s_per_gb: null, unfinished: null, license: 'mit', page: null, ...more,
});
const words = (p, w) => stepsOf(p, w).map((step) => step.words);

test('what will happen is told in order, with sizes', () => {
  assert.deepEqual(words(plan(), FIRST), [
    'Download 2.0 GB', 'Install the converter, once: about 1.2 GB', 'Convert to GGUF: about 2.0 GB, about 1:05',
    'Check it: header, a load, an answer', 'Quantize to Q4_K_M: about 600 MB, and check it',
  ]);
  const ready = { ...converter, ready: true };
  assert.deepEqual(words(plan({ place: 'folder', download_bytes: 0, converter: ready, vision: true, convert_s: null }), { ...FIRST, types: [] }), [
    'Convert to GGUF: about 2.0 GB', 'Convert its projector, which sees pictures', 'Check it: header, a load, an answer',
  ]);
  const all = words(plan(), { ...FIRST, types: ['Q8_0', 'Q4_K_M'], imatrix: 'compute', measure: true });
  assert.deepEqual(all.slice(4), [
    'Compute the importance matrix', 'Quantize to Q8_0: about 1.1 GB, and check it', 'Quantize to Q4_K_M: about 600 MB, and check it',
    'Compare the perplexity of each',
  ]);
  assert.ok(!words(plan(), { ...FIRST, imatrix: '/x/y.imatrix' }).includes('Compute the importance matrix'));
});

test('an adapter has no quantizations', () => {
  const p = plan({ lora: true, targets: [], place: 'folder', full_bytes: null, original_bytes: 1e6 });
  assert.equal(words(p, FIRST).length, 3);
  assert.equal(against(p, FIRST), 'Name the base model first.');
  assert.equal(against(p, { ...FIRST, base: 'org/base' }), '');
});

test('room counts what is needed at most, and what stays', () => {
  const all = room(plan(), FIRST);
  assert.equal(Math.round(all.most / 1e8), 58);
  assert.equal(all.stays, all.most);
  const few = room(plan(), { ...FIRST, keepFull: false, keepOriginals: false });
  assert.equal(Math.round(few.stays / 1e8), 18);
  assert.equal(room(plan(), { ...FIRST, types: [], keepFull: false }).stays, room(plan(), { ...FIRST, types: [] }).most);
});

test('what stands against a start is said', () => {
  assert.equal(against(plan(), FIRST), '');
  assert.match(against(plan({ free_bytes: GB }), FIRST), /^About 5.8 GB are needed and 1.0 GB are free/);
  assert.equal(against(plan({ problem: 'No.' }), FIRST), 'No.');
  assert.equal(against(plan({ converter: { ...converter, problem: 'No Python.' } }), FIRST), 'No Python.');
});

test('a type that needs a matrix can be chosen with one', () => {
  const odd = target('IQ2_XXS', 1, true);
  assert.equal(againstType(odd, null), 'needs an importance matrix');
  assert.equal(againstType(odd, null, true), '');
  assert.equal(againstType({ ...odd, model_id: 'a' }, null, true), 'in your library');
  assert.equal(againstType(odd, 'IQ2_XXS', true), 'what it is now');
});

test('overrides are given one by one', () => {
  assert.deepEqual(overridesOf('a=q8_0, b=q6_k\n\n c=f16 '), ['a=q8_0', 'b=q6_k', 'c=f16']);
  assert.deepEqual(makingArgs({ imatrix: 'compute', overrides: ' ', measure: true }), { imatrix: 'compute', overrides: [], measure: true });
});

test('the address of the page may name what to convert', () => {
  assert.equal(pageOf('#/convert?reference=org%2Frepo'), 'convert');
  assert.equal(referenceOf('#/convert?reference=org%2Frepo'), 'org/repo');
});
