// @ts-check
/** What the user can do: commands with their feedback. Errors become toasts, never alerts. */

import { signal } from './html.js';
import { CommandError, createBridge } from './bridge.js';
import { bytes } from './format.js';

export const bridge = createBridge();

/** @typedef {{id: number, tone: 'ok' | 'bad', message: string, remedy: string}} Toast */

/** @type {import('./html.js').Signal<Toast[]>} */
export const toasts = signal([]);
/** Commands under way, as `name:subject`, so that their buttons can rest. */
export const pending = signal(/** @type {ReadonlySet<string>} */ (new Set()));
/** Text to copy by hand, when no clipboard is reachable. */
export const manualCopy = signal(/** @type {string | null} */ (null));

const SHOWN_OK_MS = 3500;
const SHOWN_BAD_MS = 14000;
let lastToast = 0;

/** @param {number} id */
export function dismiss(id) {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

/**
 * @param {'ok' | 'bad'} tone
 * @param {string} message
 * @param {string} [remedy]
 */
export function toast(tone, message, remedy = '') {
  const same = toasts.value.find((old) => old.message === message && old.remedy === remedy);
  if (same) return;
  lastToast += 1;
  const id = lastToast;
  toasts.value = [...toasts.value.slice(-3), { id, tone, message, remedy }];
  setTimeout(() => dismiss(id), tone === 'ok' ? SHOWN_OK_MS : SHOWN_BAD_MS);
}

/** @param {unknown} error @returns {CommandError} */
export function asCommandError(error) {
  return error instanceof CommandError ? error : new CommandError({ code: 'page', message: String(error) });
}

/**
 * Runs a command; a refusal becomes a toast.
 * @param {string} name
 * @param {Record<string, unknown>} [args]
 * @param {string} [subject] what it is about, for `pending`
 * @returns {Promise<{ok: true, value: any} | {ok: false, error: CommandError}>}
 */
export async function run(name, args = {}, subject = '') {
  const result = await attempt(name, args, subject);
  if (!result.ok) toast('bad', result.error.message, result.error.remedy);
  return result;
}

/**
 * Like `run`, for callers that show the refusal themselves.
 * @param {string} name
 * @param {Record<string, unknown>} [args]
 * @param {string} [subject]
 * @returns {Promise<{ok: true, value: any} | {ok: false, error: CommandError}>}
 */
export async function attempt(name, args = {}, subject = '') {
  const key = `${name}:${subject}`;
  pending.value = new Set([...pending.value, key]);
  try {
    return { ok: true, value: await bridge.call(name, args) };
  } catch (error) {
    return { ok: false, error: asCommandError(error) };
  } finally {
    pending.value = new Set([...pending.value].filter((other) => other !== key));
  }
}

/** @param {string} id @param {boolean} [atOnce] */
export const useModel = (id, atOnce = false) => run('switch_model', { model_id: id, now: atOnce }, id);
/** @param {string} id */
export const loadModel = (id) => run('load_model', { model_id: id }, id);
/** @param {string} id @param {boolean} [atOnce] */
export const unloadModel = (id, atOnce = false) => run('unload_model', { model_id: id, now: atOnce }, id);
/** @param {string} id @param {boolean} pinned */
export const pinModel = (id, pinned) => run('pin_model', { model_id: id, pinned }, id);
/** @param {string} id */
export const cancelJob = (id) => run('cancel_job', { job_id: id }, id);
export const rescan = () => run('rescan');
export const findRuntime = () => run('find_runtime');
export const readHardware = () => run('read_hardware');
/** @param {string} backend @param {number | null} build @param {string} [subject] */
export const installRuntime = (backend, build, subject = backend) => run('install_runtime', { backend, build }, subject);
/** @param {string} backend @param {{portable?: boolean, activate?: boolean}} [how] */
export const buildRuntime = (backend, how = {}) => run('build_runtime', { backend, ...how }, backend);
/** @param {string} id */
export const useRuntime = (id) => run('use_runtime', { name: id }, id);
export const rollBackRuntime = () => run('roll_back_runtime');
/** @param {number} build */
export const skipUpdate = (build) => run('skip_update', { build });

/** @param {string} path @returns {Promise<boolean>} */
export async function addFolder(path) {
  return (await run('add_folder', { path })).ok;
}

/** @param {string} id */
export async function removeRuntime(id) {
  const result = await run('remove_runtime', { runtime_id: id }, id);
  if (result.ok) toast('ok', `Removed ${id}; ${bytes(result.value?.freed_bytes)} are free again.`);
}

/** @returns {Promise<string | null>} the folder the user picks in the system's chooser */
export const pickFolder = () => natively(bridge.native.chooseFolder);

/** Adds the folder the user picks in the system's chooser. */
export async function chooseFolder() {
  const path = await pickFolder();
  if (path) await addFolder(path);
}

/** @param {() => Promise<any>} act a native action whose refusal becomes a toast */
async function natively(act) {
  try {
    return await act();
  } catch (error) {
    const { message, remedy } = asCommandError(error);
    toast('bad', message, remedy);
    return null;
  }
}

/** @param {string} site */
export const browse = (site) => natively(() => bridge.native.browse(site));
/** Brings the .gguf files that the user picks into the library. */
export async function chooseFiles() {
  for (const path of (await natively(bridge.native.chooseFiles)) ?? []) await run('import_model', { path }, path);
}
/** @returns {Promise<string | null>} the file the user picks in the system's chooser */
export const pickFile = async () => ((await natively(bridge.native.chooseFiles)) ?? [])[0] ?? null;
/** @param {string} path */
export const openPath = (path) => natively(() => bridge.native.openPath(path));
/** @param {string} url */
export const openUrl = (url) => natively(() => bridge.native.openUrl(url));

/** @param {string} text @returns {Promise<boolean>} */
export async function copy(text) {
  const done = await bridge.copyText(text);
  if (!done) manualCopy.value = text;
  return done;
}
