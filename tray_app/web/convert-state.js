// @ts-check
/** What the Convert page knows: the weights looked at, the wishes about them, what comes of both. */

import { computed, signal } from './html.js';
import { attempt, run, toast } from './actions.js';
import { bytes, clock } from './format.js';
import { jobs } from './store.js';

/** @typedef {import('./types.js').ConvertPlan} ConvertPlan */
/** @typedef {import('./types.js').Job} Job */
/** @typedef {{imatrix: string, overrides: string, measure: boolean}} Making how quantizations are made */
/** @typedef {{output: string, types: string[], keepFull: boolean, keepOriginals: boolean, base: string, name: string} & Making} Wishes */

export const KINDS = new Set(['convert_model', 'quantize_model', 'install_converter']);
export const MOST_TYPES = 8; // of one job, as the engine takes them
/** @type {Making} */
export const PLAIN = { imatrix: '', overrides: '', measure: false };
/** @type {Wishes} */
export const FIRST = { output: 'auto', types: ['Q4_K_M'], keepFull: true, keepOriginals: true, base: '', name: '', ...PLAIN };

export const source = signal('');
export const plan = signal(/** @type {ConvertPlan | null} */ (null));
export const asking = signal(false);
export const error = signal(/** @type {{code: string, message: string, remedy: string} | null} */ (null));
export const wishes = signal(FIRST);
export const overview = signal(/** @type {import('./types.js').Conversions | null} */ (null));

/** Tasks of this page, the newest first. */
export const tasks = computed(() => jobs.value.filter((job) => KINDS.has(job.kind)).sort((a, b) => b.created_at - a.created_at));
/** Changes when one of them begins or ends: what is unfinished may be another then. */
export const tasksKey = computed(() => tasks.value.map((job) => `${job.id} ${job.state}`).join());

/** Those that wait for a decision: the failed and the interrupted. */
export const stopped = computed(() => (overview.value?.unfinished ?? []).filter((each) => !each.job_id));

let asked = 0;

/** Looks at a folder or a repository. @param {string} [text] */
export async function look(text = source.value) {
  source.value = text.trim();
  asked += 1;
  const number = asked;
  plan.value = null;
  error.value = null;
  if (!source.value) return;
  asking.value = true;
  const result = await attempt('convert_plan', { source: source.value, output: wishes.value.output }, source.value);
  if (number !== asked) return; // another one is looked at by now
  asking.value = false;
  if (result.ok) {
    plan.value = result.value;
    wishes.value = { ...FIRST, output: wishes.value.output, base: result.value.base ?? '', name: result.value.name };
  } else error.value = result.error;
}

/** @param {Partial<Wishes>} more */
export const wish = (more) => { wishes.value = { ...wishes.value, ...more }; };

/** Another output changes sizes; the choices stay. @param {string} output */
export async function choose(output) {
  wish({ output });
  const now = plan.value;
  if (!now) return;
  const result = await attempt('convert_plan', { source: now.source, output }, now.source);
  if (result.ok && plan.value === now && wishes.value.output === output) plan.value = result.value;
}

export function putAway() {
  asked += 1;
  [plan.value, error.value, asking.value, source.value] = [null, null, false, ''];
}

/** "a=q8_0, b=q6_k" or one in each line. @param {string} text */
export const overridesOf = (text) => text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean);

/** @param {Making} how */
export const makingArgs = (how) => ({ imatrix: how.imatrix, overrides: overridesOf(how.overrides), measure: how.measure });

export async function start() {
  const now = plan.value;
  if (!now) return;
  const w = wishes.value;
  const types = now.lora ? [] : w.types;
  const result = await run('convert_model', {
    source: now.source, output: w.output, types, keep_full: w.keepFull || !types.length, keep_originals: w.keepOriginals, base: w.base,
    name: w.name.trim() === now.name ? '' : w.name.trim(),
    ...(types.length ? makingArgs(w) : {}),
  }, now.source);
  if (!result.ok) return;
  toast('ok', 'It goes on in the background, also when this window is closed.');
  putAway();
}

export async function askOverview() {
  const result = await attempt('conversions');
  if (result.ok) overview.value = result.value;
}

/**
 * What will happen, in order; `bytes` is what it leaves on the disk meanwhile.
 * @param {ConvertPlan} p @param {Wishes} w @returns {{words: string, bytes: number}[]}
 */
export function stepsOf(p, w) {
  const steps = [];
  const full = p.full_bytes ?? p.original_bytes;
  const add = (/** @type {string} */ words, size = 0) => steps.push({ words, bytes: size });
  if (p.place === 'hub') add(`Download ${bytes(p.download_bytes)}`, p.download_bytes);
  if (!p.converter.ready) add(`Install the converter, once: about ${bytes(p.converter.install_bytes)}`, p.converter.install_bytes);
  if (p.lora) {
    add('Convert the adapter to GGUF', p.original_bytes);
    add('Check it: together with its base model, if that is in the library');
    return steps;
  }
  add(`Convert to GGUF: ${p.full_bytes == null ? '' : 'about '}${bytes(full)}${p.convert_s == null ? '' : `, about ${clock(p.convert_s)}`}`, full);
  if (p.vision) add('Convert its projector, which sees pictures');
  add('Check it: header, a load, an answer');
  if (!w.types.length) return steps;
  if (w.imatrix && !w.imatrix.match(/\.(gguf|dat|imatrix)$/i)) add('Compute the importance matrix');
  for (const label of w.types) {
    const size = p.targets.find((t) => t.label === label)?.size_bytes ?? 0;
    add(`Quantize to ${label}${size ? `: about ${bytes(size)}` : ''}, and check it`, size);
  }
  if (w.measure) add('Compare the perplexity of each');
  return steps;
}

/** What it takes on the disk at most, and what stays. @param {ConvertPlan} p @param {Wishes} w */
export function room(p, w) {
  const most = stepsOf(p, w).reduce((sum, step) => sum + step.bytes, 0);
  const drops = (p.place === 'hub' && !w.keepOriginals ? p.download_bytes : 0)
    + (w.types.length && !w.keepFull && !p.lora ? p.full_bytes ?? p.original_bytes : 0);
  return { most, stays: Math.max(0, most - drops) };
}

/** Why it cannot be started, or nothing. @param {ConvertPlan} p @param {Wishes} w */
export function against(p, w) {
  if (p.problem) return p.problem;
  if (!p.converter.ready && p.converter.problem) return p.converter.problem;
  const { most } = room(p, w);
  if (most > p.free_bytes) return `About ${bytes(most)} are needed and ${bytes(p.free_bytes)} are free.`;
  if (p.lora && !w.base.trim()) return 'Name the base model first.';
  return '';
}
