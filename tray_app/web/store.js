// @ts-check
/**
 * What the page shows, as signals. It only mirrors the engine: after a reload everything here
 * comes from `snapshot`. The few signals that are the page's own (toasts, clock) say so.
 */

import { batch, computed, signal } from './html.js';
import { applyEvent, mergeSnapshot, REFETCH } from './reduce.js';

/** @typedef {import('./types.js').Snapshot} Snapshot */
/** @typedef {import('./types.js').ModelStatus} ModelStatus */

/** @type {import('./html.js').Signal<Snapshot | null>} */
export const snapshot = signal(null);
/** @type {import('./html.js').Signal<import('./bridge.js').Link>} */
export const link = signal('connecting');
export const stopping = signal(false);
/** Whether the page runs in the app's window (native chooser, start at login). */
export const inWindow = signal(false);
/** A theme just picked, until the engine's settings say the same. @type {import('./html.js').Signal<string | null>} */
export const themeWish = signal(null);
/** The running jobs whose progress the page in view already shows, by id. */
export const jobsInView = signal(/** @type {ReadonlySet<string>} */ (new Set()));
/** The page's clock, seconds; moves once a second while the page is visible. */
export const now = signal(Date.now() / 1000);
/** When this page saw a model begin to load, seconds. @type {Map<string, number>} */
export const loadingSince = new Map();

/**
 * @template {keyof Snapshot} K
 * @param {K} key
 * @param {Snapshot[K]} fallback
 */
const slice = (key, fallback) => computed(() => snapshot.value?.[key] ?? fallback);

export const models = slice('models', []);
export const statuses = slice('statuses', []);
export const folders = slice('folders', []);
export const leftOut = slice('left_out', []);
export const jobs = slice('jobs', []);
export const downloads = slice('downloads', []);
export const notices = slice('notices', []);
export const recents = slice('recent_model_ids', []);
export const settings = slice('settings', {});
export const activeId = computed(() => snapshot.value?.active_model_id ?? null);
export const gateway = computed(() => snapshot.value?.gateway ?? null);
export const runtime = computed(() => snapshot.value?.runtime ?? null);
export const memory = computed(() => snapshot.value?.memory ?? null);
export const appUpdate = computed(() => snapshot.value?.app_update ?? null);
export const scanning = slice('scanning', false);
export const lastRequest = slice('last_request', null);
export const serverState = slice('server_state', 'stopped');
export const statusText = slice('status_text', '');
export const home = slice('home', '');
export const theme = computed(() => themeWish.value ?? settings.value.ui?.theme);

export const modelById = computed(() => new Map(models.value.map((m) => [m.id, m])));
export const statusById = computed(() => new Map(statuses.value.map((s) => [s.model_id, s])));
export const activeModel = computed(() => modelById.value.get(activeId.value ?? '') ?? null);
export const runtimeById = computed(() => new Map((runtime.value?.installed ?? []).map((r) => [r.id, r])));
export const runningJobs = computed(() => jobs.value.filter((j) => j.state === 'running' || j.state === 'queued'));

/** @param {string} id @returns {ModelStatus} */
export function statusOf(id) {
  return statusById.value.get(id) ?? unloaded(id);
}

/** @param {string} id @returns {ModelStatus} the status of a model never touched */
function unloaded(id) {
  return {
    model_id: id, state: 'unloaded', in_flight: 0, waiting: 0, pid: null, loaded_at: null, last_used_at: null,
    load_s: null, memory_bytes: null, context_length: null, retry_at: null, error: null, runtime_id: null, offload: null,
  };
}

/** @param {string | null | undefined} id @returns {string} a name for people */
export const nameOf = (id) => (id ? modelById.value.get(id)?.name ?? id : '');

/**
 * The engine's messages may begin with a model's id; people know its name.
 * @param {string} text
 */
export function withName(text) {
  const model = models.value.find((m) => text.startsWith(`${m.id} `));
  if (!model) return text;
  const alike = models.value.some((m) => m !== model && m.name === model.name);
  const name = alike && model.quantization ? `${model.name} ${model.quantization}` : model.name;
  return name + text.slice(model.id.length);
}

/** @param {ModelStatus[]} list */
function watchLoading(list) {
  const loading = new Set(list.filter((s) => s.state === 'loading').map((s) => s.model_id));
  for (const id of loadingSince.keys()) if (!loading.has(id)) loadingSince.delete(id);
  for (const id of loading) if (!loadingSince.has(id)) loadingSince.set(id, Date.now() / 1000);
}

/** @param {Snapshot} fresh */
export function takeSnapshot(fresh) {
  watchLoading(fresh.statuses);
  batch(() => {
    snapshot.value = mergeSnapshot(snapshot.value, fresh);
    stopping.value = false;
    if (themeWish.value === fresh.settings?.ui?.theme) themeWish.value = null;
  });
}

/**
 * @param {number} seq
 * @param {string} name
 * @param {any} data
 * @returns {number} one of REFETCH
 */
export function takeEvent(seq, name, data) {
  if (!snapshot.value) return REFETCH.NOW;
  const next = applyEvent(snapshot.value, seq, name, data);
  watchLoading(next.snapshot.statuses);
  batch(() => {
    snapshot.value = next.snapshot;
    if (name === 'EngineStopping') stopping.value = true;
  });
  return next.refetch;
}
