// @ts-check
/**
 * Pure steps from one snapshot to the next. The engine holds the truth; these only apply what
 * an event states outright and say when the rest has to be asked for again.
 */

import { inOrder } from './download-words.js';

/** @typedef {import('./types.js').Snapshot} Snapshot */
/** @typedef {import('./types.js').Job} Job */

/** How soon a new snapshot is wanted: not at all, when convenient, or at once. */
export const REFETCH = Object.freeze({ NO: 0, SOON: 1, NOW: 2 });

/**
 * @param {any} a
 * @param {any} b
 * @returns {boolean} whether two JSON values are the same
 */
export function sameJson(a, b) {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => sameJson(a[key], b[key]));
}

/**
 * Takes a new snapshot but keeps every part that did not change as the same object, so that
 * only the regions that did change are rendered again.
 * @param {Snapshot | null} old
 * @param {Snapshot} fresh
 * @returns {Snapshot}
 */
export function mergeSnapshot(old, fresh) {
  if (!old) return fresh;
  /** @type {any} */
  const merged = { ...fresh };
  for (const key of Object.keys(merged)) {
    const before = /** @type {any} */ (old)[key];
    if (Array.isArray(before) && Array.isArray(merged[key])) merged[key] = keepItems(before, merged[key]);
    else if (sameJson(before, merged[key])) merged[key] = before;
  }
  return merged;
}

/** What names one item of any list of a snapshot. @param {any} item */
const keyOf = (item) => item?.id ?? item?.model_id ?? item?.path ?? item?.code ?? item;

/**
 * @param {any[]} before
 * @param {any[]} after
 */
function keepItems(before, after) {
  const known = new Map(before.map((item) => [keyOf(item), item]));
  const items = after.map((item) => {
    const old = known.get(keyOf(item));
    return sameJson(old, item) ? old : item;
  });
  const unchanged = items.length === before.length && items.every((item, i) => item === before[i]);
  return unchanged ? before : items;
}

/**
 * @template T
 * @param {T[]} list
 * @param {T} item
 * @param {(item: T) => string} key
 * @returns {T[]}
 */
function upsert(list, item, key) {
  const at = list.findIndex((other) => key(other) === key(item));
  return at < 0 ? [...list, item] : list.map((other, i) => (i === at ? item : other));
}

/** @type {Record<string, (s: Snapshot, data: any) => {patch?: Partial<Snapshot>, refetch: number}>} */
const REDUCERS = {
  ModelChanged: (s, { status }) => {
    const before = s.statuses.find((other) => other.model_id === status.model_id);
    const moved = before?.state !== status.state || before?.pid !== status.pid;
    return {
      patch: { statuses: upsert(s.statuses, status, (x) => x.model_id) },
      refetch: moved ? REFETCH.NOW : REFETCH.SOON, // status_text and memory follow the state
    };
  },
  JobChanged: (s, { job }) => {
    const before = s.jobs.find((other) => other.id === job.id);
    return {
      patch: { jobs: upsert(s.jobs, job, (/** @type {Job} */ x) => x.id) },
      refetch: before?.state === job.state ? REFETCH.NO : REFETCH.SOON,
    };
  },
  DownloadChanged: (s, { download, removed }) => {
    const before = s.downloads.find((other) => other.id === download.id);
    const rest = s.downloads.filter((other) => other.id !== download.id);
    const moved = removed || before?.state !== download.state || before?.order !== download.order;
    const downloads = moved ? inOrder(removed ? rest : [...rest, download]) : upsert(s.downloads, download, (x) => x.id);
    return { patch: { downloads }, refetch: REFETCH.NO };
  },
  ActiveModelChanged: (_, { model_id }) => ({ patch: { active_model_id: model_id }, refetch: REFETCH.NOW }),
  RuntimeChanged: (_, { status }) => ({ patch: { runtime: status }, refetch: REFETCH.SOON }),
  GatewayChanged: (_, { status }) => ({ patch: { gateway: status }, refetch: REFETCH.SOON }),
  NoticesChanged: (_, { notices }) => ({ patch: { notices }, refetch: REFETCH.NO }),
  RequestFinished: (_, { record }) => ({ patch: { last_request: record }, refetch: REFETCH.SOON }),
  LibraryChanged: (_, { scanning }) => ({ patch: { scanning }, refetch: REFETCH.NOW }),
  AppUpdateChanged: (_, { status }) => ({ patch: { app_update: status }, refetch: REFETCH.NO }),
  SettingsChanged: () => ({ refetch: REFETCH.NOW }),
  EngineStopping: () => ({ refetch: REFETCH.NO }),
  WindowRequested: () => ({ refetch: REFETCH.NO }),
};

/**
 * Applies one event.
 * @param {Snapshot} snapshot
 * @param {number} seq
 * @param {string} name class name of the event
 * @param {any} data its fields
 * @returns {{snapshot: Snapshot, refetch: number}}
 */
export function applyEvent(snapshot, seq, name, data) {
  const reducer = REDUCERS[name];
  if (!reducer) return { snapshot, refetch: REFETCH.NOW }; // newer than this page: ask
  const { patch, refetch } = reducer(snapshot, data);
  return { snapshot: { ...snapshot, ...patch, seq }, refetch };
}
