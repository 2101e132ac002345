// @ts-check
/** Newer versions of the app: how to hear of them, and the one that is there. */

import { html } from '../html.js';
import { cancelJob, pending, run, toast } from '../actions.js';
import { appUpdate, jobs, now, settings, snapshot } from '../store.js';
import { ago, bytes, day, progressText } from '../format.js';
import { Field, Segments } from '../components/fields.js';
import { Icon } from '../components/icons.js';
import { WebAddress } from '../components/markdown-view.js';
import { Callout, Card, Spinner } from '../components/ui.js';

/**
 * @typedef {{version: string, released_at: number, notes_url: string, size_bytes: number | null}} AppRelease
 *
 * @typedef {object} AppUpdate
 * @property {'none'|'available'|'fetching'|'ready'|'applying'} state
 * @property {string} kind
 * @property {string} installed_as
 * @property {string} how to update it, where that is not for the app
 * @property {AppRelease | null} release
 * @property {boolean} asks
 * @property {number | null} checked_at
 * @property {import('../types.js').ErrorView | null} error
 * @property {string | null} job_id
 * @property {boolean} waiting
 * @property {{version: string, back_to: string, reason: string} | null} taken_back
 */

/** @type {Record<string, string>} */
const MODES = {
  off: 'Nobody is asked.',
  notify: 'Asked once a day. Nothing is downloaded before you say so.',
  auto: 'Downloaded and tried by itself, never on a metered line, and used when nothing has been asked for five minutes.',
};

/** @param {{save: (key: string, value: unknown) => Promise<boolean>, errors: Record<string, any>}} props */
export function AppUpdateCard({ save, errors }) {
  const update = appUpdate.value;
  if (!update) return null;
  const { updates: mode = 'notify', manifest_url: place = null } = settings.value.app ?? {};
  const asking = pending.value.has('check_app_update:');
  return html`
    <${Card} title="Updates of Llama Wrangler" class="app-update-card" actions=${html`
      <span class="muted hint" role="status">${asking ? 'asking…' : update.checked_at == null ? '' : `checked ${ago(update.checked_at, now.value)}`}</span>
      <button type="button" class="button small" disabled=${asking || !update.asks} onClick=${check}>
        ${asking ? html`<${Spinner} />` : html`<${Icon} name="refresh" />`}<span>Check now</span></button>`}>
      <${TakenBack} update=${update} />
      ${update.error && html`<${Callout} tone="warn" message=${update.error.message} remedy=${update.error.remedy} />`}
      ${update.release && html`<${Release} update=${update} />`}
      <${Segments} label="When there is a newer version" name="app-updates" value=${mode}
        options=${[['off', 'Off'], ['notify', 'Tell me'], ['auto', 'Install by itself when idle']]}
        onChange=${(/** @type {string} */ wish) => save('app.updates', wish)} />
      <p class="muted hint">${MODES[mode] ?? ''}${mode === 'auto' && update.how ? ` This copy is ${update.installed_as}, so it is only told. ${update.how}` : ''}</p>
      <${Field} label="Where to look" mono value=${place ?? ''} placeholder=${update.asks && !place ? 'where this version is from' : 'nowhere'}
        onCommit=${(/** @type {string} */ text) => save('app.manifest_url', text.trim() || null)} error=${errors['app.manifest_url']}
        hint="The address of a manifest. What it tells counts only with a signature that this version knows." />
    <//>`;
}

async function check() {
  const result = await run('check_app_update');
  if (result.ok && !result.value.release) toast('ok', `Version ${snapshot.value?.version} is the newest.`);
}

/** @param {string} version */
const skip = (version) => run('skip_app_update', { version });

/** @param {{update: AppUpdate}} props */
function TakenBack({ update }) {
  const gone = update.taken_back;
  if (!gone) return null;
  return html`
    <${Callout} tone="warn" message=${`Version ${gone.version} was taken back: ${gone.reason}`} remedy=${`Version ${gone.back_to} is in use again.`}>
      <button type="button" class="button small quiet" onClick=${() => skip(gone.version)}>Never mind</button>
    <//>`;
}

/** @param {{update: AppUpdate}} props */
function Release({ update }) {
  const release = update.release;
  if (!release) return null;
  const facts = [`released ${day(release.released_at)}`, release.size_bytes != null && !update.how && `${bytes(release.size_bytes)} to download`].filter(Boolean);
  return html`
    <section class="update" aria-label=${`Version ${release.version}`}>
      <div class="update-head">
        <div><h3>Llama Wrangler ${release.version} is out</h3><p class="muted digits hint">${facts.join(' · ')}</p></div>
        <div class="row-actions"><${Actions} update=${update} version=${release.version} /></div>
      </div>
      <p class="hint" role="status">${wordsOf(update)}</p>
      ${release.notes_url && html`<p class="hint"><${WebAddress} url=${release.notes_url} /></p>`}
    </section>`;
}

/** What happens, or what to do. @param {AppUpdate} update @returns {string} */
export function wordsOf(update) {
  if (update.how) return update.how;
  const job = jobs.value.find((one) => one.id === update.job_id);
  if (update.state === 'fetching') return job ? `${job.step} ${job.unit === 'bytes' ? progressText(job.done, job.total, job.unit) : ''}`.trim() : 'It begins…';
  if (update.state === 'applying') return 'The app starts anew with it…';
  if (update.waiting) return 'It is used as soon as nothing runs: no answer, no download, no other task.';
  if (update.state === 'ready') return 'It is here, and has passed its own test on this computer.';
  return update.release?.size_bytes == null ? 'Nothing of it is for this computer.' : '';
}

/** @param {{update: AppUpdate, version: string}} props */
function Actions({ update, version }) {
  const { state, how, job_id: job, waiting } = update;
  const id = job ?? '';
  if (state === 'applying') return html`<${Spinner} />`;
  if (state === 'fetching') return html`<button type="button" class="button small" disabled=${!id} onClick=${() => cancelJob(id)}>Cancel</button>`;
  return html`
    <button type="button" class="button small quiet" disabled=${pending.value.has('skip_app_update:')} onClick=${() => skip(version)}>Skip this one</button>
    ${!how && state === 'available' && update.release?.size_bytes != null && html`<button type="button" class="button small primary"
      disabled=${pending.value.has('fetch_app_update:')} onClick=${() => run('fetch_app_update')}>Download ${version}</button>`}
    ${!how && state === 'ready' && html`<button type="button" class="button small primary" disabled=${waiting || pending.value.has('apply_app_update:')}
      onClick=${() => run('apply_app_update', { show: true })}>Restart with ${version}</button>`}`;
}
