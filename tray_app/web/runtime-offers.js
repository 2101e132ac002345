// @ts-check
/** What can be had besides the installed runtimes: asked for when a page needs it. */

import { computed, signal } from './html.js';
import { attempt } from './actions.js';
import { jobs, runtime, settings } from './store.js';
import { rungViews } from './rungs.js';

/** @typedef {import('./types.js').Available} Available */
/** @typedef {import('./types.js').ErrorView} ErrorView */

/** @type {import('./html.js').Signal<Available | null>} */
export const available = signal(null);
/** `quietly`: what is shown stays until the answer comes. @type {import('./html.js').Signal<'' | 'quietly' | 'anew'>} */
export const asking = signal('');
/** Why the last question had no answer at all; an unreachable feed is in `available.error`. */
export const askError = signal(/** @type {{message: string, remedy: string} | null} */ (null));

let asked = 0;

/** @param {boolean} refresh ask the releases anew, not only what was known @returns {Promise<boolean>} */
export async function askAvailable(refresh) {
  asked += 1;
  const mine = asked;
  asking.value = refresh ? 'anew' : 'quietly';
  const result = await attempt('available_runtimes', { refresh });
  if (mine !== asked) return false; // a later question is under way
  asking.value = '';
  if (result.ok) available.value = result.value;
  askError.value = result.ok ? null : result.error;
  return result.ok;
}

/** Changes when another answer is to be expected: other runtimes, other hardware, another feed. */
export const offersKey = computed(() => JSON.stringify([
  runtime.value?.installed.map((one) => one.id), runtime.value?.ladder.map((rung) => [rung.backend, rung.usable]),
  settings.value.runtime?.feed_url ?? null,
]));

export const wish = computed(() => /** @type {string | null} */ (settings.value.runtime?.backend ?? null));
export const rungs = computed(() => (runtime.value ? rungViews(runtime.value, available.value, wish.value) : []));

const KINDS = new Set(['build_runtime', 'install_runtime', 'prove_runtime']);
/** Newest first. */
export const runtimeJobs = computed(() => jobs.value.filter((job) => KINDS.has(job.kind)).sort((a, b) => b.created_at - a.created_at));
export const runtimeBusy = computed(() => runtimeJobs.value.some((job) => job.state === 'running' || job.state === 'queued'));
