// @ts-check
/** What stands around every page: navigation, notices, jobs, toasts. */

import { html } from '../html.js';
import { cancelJob, dismiss, manualCopy, pending, toasts } from '../actions.js';
import { page, PAGES } from '../router.js';
import {
  activeModel, downloads, gateway, jobsInView, link, models, notices, runningJobs, runtime, serverState, statuses, statusOf, statusText,
  stopping, withName,
} from '../store.js';
import { overall } from '../download-words.js';
import { activeText, bytes, clock, progressText } from '../format.js';
import { Icon } from './icons.js';
import { Callout, Dot, IconButton, Modal, Progress, Spinner, Words } from './ui.js';

const TITLES = { models: 'Models', discover: 'Discover', downloads: 'Downloads', convert: 'Convert', server: 'Server', connect: 'Connect', runtimes: 'Runtimes', chat: 'Chat', settings: 'Settings' };
const TONES = { stopped: 'idle', starting: 'busy', ready: 'ok', busy: 'ok', error: 'bad' };

export function Sidebar() {
  return html`
    <nav class="sidebar" aria-label="Pages">
      <div class="brand"><img class="brand-mark" src="/web/icon.svg" alt="" width="30" height="30" /><span class="brand-name">Llama Wrangler</span></div>
      <ul class="nav">
        ${PAGES.map((name, i) => html`
          <li key=${name}>
            <a href=${`#/${name}`} class="nav-item" aria-current=${page.value === name ? 'page' : undefined}
              title=${`${TITLES[name]} (Ctrl+${i + 1})`}>
              <${Icon} name=${name} /><span>${TITLES[name]}</span>${name === 'downloads' && html`<${DownloadCount} />`}
            </a>
          </li>`)}
      </ul>
      <${SideStatus} />
    </nav>`;
}

/** How many are unfinished, and how far they are. */
function DownloadCount() {
  const { count, text } = overall(downloads.value);
  if (!count) return null;
  return html`<span class="nav-count digits" title=${text} aria-label=${`${count} unfinished${text && `, ${text}`}`}>${text || count}</span>`;
}

const LINKS = { connecting: 'Connecting…', lost: 'Not connected', expired: 'Not connected' };

/** The second line: what the name above it is doing. */
function shortStatus() {
  const model = activeModel.value;
  if (link.value !== 'open') return LINKS[link.value];
  if (gateway.value?.state === 'blocked' || runtime.value?.state !== 'ready') return statusText.value;
  if (!model) return models.value.length ? 'Pick one under Models' : statusText.value;
  return activeText(model, statusOf(model.id), statuses.value.reduce((sum, s) => sum + s.in_flight, 0));
}

function SideStatus() {
  const open = link.value === 'open';
  const model = activeModel.value;
  return html`
    <a href="#/server" class="side-status" title=${open ? statusText.value : LINKS[link.value]}>
      <${Dot} tone=${TONES[open ? serverState.value : 'stopped']} />
      <span class="side-status-text">
        <span class="side-model" title=${model?.id}>${model ? model.name : 'No model in use'}</span>
        <span class="muted side-short" aria-hidden="true">${shortStatus()}</span>
        <span class="only-read" role="status">${open ? statusText.value : LINKS[link.value]}</span>
      </span>
    </a>`;
}

export function LinkBar() {
  if (link.value === 'open' || link.value === 'connecting') return null;
  const expired = link.value === 'expired';
  const words = expired
    ? 'This page is no longer signed in. Open the window again from the tray icon.'
    : stopping.value ? 'The engine is stopping. Reconnecting when it is back…' : 'The engine does not answer. Reconnecting…';
  return html`<div class="link-bar" role="status">${!expired && html`<${Spinner} />`}${words}</div>`;
}

const OF_RUNTIMES = new Set(['runtime_update', 'runtime_rolled_back', 'runtime_missing', 'cpu_fallback', 'gpu_unused']);
/** Those that the runtimes page tells at its own place. */
const TOLD_THERE = new Set(['runtime_update', 'runtime_rolled_back', 'runtime_missing']);

export function Notices() {
  const there = page.value === 'runtimes';
  const same = runtime.value?.error?.message;
  const list = notices.value.filter((n) => !there || !(TOLD_THERE.has(n.code) || n.message === same));
  if (!list.length) return null;
  const tone = { info: 'info', warning: 'warn', error: 'bad' };
  return html`
    <div class="notices">
      ${list.map((n) => html`
        <${Callout} key=${n.code} tone=${tone[n.level] ?? 'info'} message=${withName(n.message)} remedy=${n.remedy}>
          ${!there && (OF_RUNTIMES.has(n.code) || n.message === same) && html`<a class="button small" href="#/runtimes">See runtimes</a>`}<//>`)}
    </div>`;
}

/** @param {{job: import('../types.js').Job}} props */
export function JobLine({ job }) {
  const rate = job.rate_per_s && job.unit === 'bytes' ? `${bytes(job.rate_per_s)}/s` : '';
  const left = job.eta_s == null ? '' : `${clock(job.eta_s)} left`;
  const count = job.state === 'queued' ? 'Waiting to start' : progressText(job.done, job.total, job.unit);
  return html`
    <div class="job">
      <div class="job-words">
        <span class="job-title" title=${job.title}>${job.title}</span>
        <span class="job-step muted">${job.step}</span>
        <span class="job-count muted digits">${[count, rate, left].filter(Boolean).join(' · ')}</span>
      </div>
      <${Progress} label=${job.title} value=${job.done} max=${job.state === 'queued' ? null : job.total} />
      <${IconButton} icon="close" label=${`Cancel: ${job.title}`} disabled=${pending.value.has(`cancel_job:${job.id}`)}
        onClick=${() => cancelJob(job.id)} />
    </div>`;
}

export function JobStrip() {
  const list = runningJobs.value.filter((job) => !jobsInView.value.has(job.id));
  if (!list.length) return null;
  return html`
    <section class="job-strip" aria-label="Running tasks">
      ${list.map((job) => html`<${JobLine} key=${job.id} job=${job} />`)}
    </section>`;
}

export function Toasts() {
  return html`
    <div class="toasts" role="log" aria-live="polite" aria-label="Messages">
      ${toasts.value.map((t) => html`
        <div key=${t.id} class="toast" data-tone=${t.tone} role=${t.tone === 'bad' ? 'alert' : undefined}>
          <${Icon} name=${t.tone === 'bad' ? 'warning' : 'check'} />
          <div class="toast-text"><p><${Words} text=${t.message} /></p>${t.remedy && html`<p class="muted"><${Words} text=${t.remedy} /></p>`}</div>
          <${IconButton} icon="close" label="Dismiss" onClick=${() => dismiss(t.id)} />
        </div>`)}
    </div>`;
}

export function ManualCopy() {
  if (manualCopy.value === null) return null;
  const close = () => { manualCopy.value = null; };
  return html`
    <${Modal} title="Copy this text" onClose=${close}
      actions=${html`<button type="button" class="button" onClick=${close}>Done</button>`}>
      <p class="muted">The clipboard is not reachable from this page. Select the text and press Ctrl+C.</p>
      <textarea class="input mono" rows="5" readonly aria-label="Text to copy" value=${manualCopy.value}
        onFocus=${(/** @type {any} */ event) => event.target.select()}></textarea>
    <//>`;
}
