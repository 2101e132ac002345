// @ts-check
/** Builds, installations and proofs that run now, and the last one if it failed. */

import { html, signal, useState } from '../html.js';
import { cancelJob, pending } from '../actions.js';
import { runtimeJobs } from '../runtime-offers.js';
import { bytes, clock, progressText } from '../format.js';
import { useInView } from '../components/in-view.js';
import { LogView } from '../components/log-viewer.js';
import { Callout, Card, Dot, Progress, Spinner } from '../components/ui.js';

/** @typedef {import('../types.js').Job} Job */

/** Failed tasks that were read and put away, until the page is loaded again. */
const putAway = signal(/** @type {ReadonlySet<string>} */ (new Set()));

export function RuntimeTasks() {
  const running = [...runtimeJobs.value.filter((job) => job.state === 'running'), ...runtimeJobs.value.filter((job) => job.state === 'queued')];
  const last = runtimeJobs.value[0];
  const failed = last?.state === 'failed' && !putAway.value.has(last.id) ? last : null;
  if (!running.length && !failed) return null;
  return html`
    <${Card} title=${running.length ? 'Under way' : 'The last task failed'} class="tasks-card"
      actions=${failed && html`<button type="button" class="button small quiet"
        onClick=${() => { putAway.value = new Set([...putAway.value, failed.id]); }}>Put away</button>`}>
      ${running.map((job) => html`<${RunningTask} key=${job.id} job=${job} />`)}
      ${failed && html`<${FailedTask} key=${failed.id} job=${failed} />`}
    <//>`;
}

/** @param {{job: Job}} props */
function RunningTask({ job }) {
  const line = useInView(job.id);
  const queued = job.state === 'queued';
  const facts = queued ? [] : [
    (job.done > 0 || job.total != null) && progressText(job.done, job.total, job.unit),
    job.rate_per_s && job.unit === 'bytes' && `${bytes(job.rate_per_s)}/s`,
    job.eta_s != null && `${clock(job.eta_s)} left`,
  ].filter(Boolean);
  return html`
    <div class="build">
      <div ref=${line} class="build-line">
        ${queued ? html`<${Dot} tone="idle" />` : html`<${Spinner} />`}
        <div class="build-words"><span class="build-title">${job.title}</span>
          <span class="muted build-step" title=${job.step}>${queued ? 'Waiting to start' : job.step}</span></div>
        <button type="button" class="button small" aria-label=${`Cancel: ${job.title}`} disabled=${pending.value.has(`cancel_job:${job.id}`)}
          onClick=${() => cancelJob(job.id)}>Cancel</button>
      </div>
      ${!queued && html`<${Progress} label=${job.title} value=${job.done} max=${job.total} />
        <p class="muted digits hint build-facts">${facts.join(' · ')}</p>`}
      <${TaskLog} job=${job} open=${job.kind === 'build_runtime'} />
    </div>`;
}

/** @param {{job: Job}} props */
const FailedTask = ({ job }) => html`
  <div class="build">
    <p class="build-title">${job.title}</p>
    <${Callout} message=${job.error?.message ?? 'It gave no reason.'} remedy=${job.error?.remedy} />
    <${TaskLog} job=${job} open=${false} />
  </div>`;

/** @param {{job: Job, open: boolean}} props `open` at first */
function TaskLog({ job, open: first }) {
  const [open, setOpen] = useState(first);
  if (!job.log_name) return null;
  return html`
    <details open=${open} onToggle=${(/** @type {any} */ e) => setOpen(e.target.open)}>
      <summary>${job.state === 'failed' ? 'What it wrote' : 'What it writes'}</summary>
      ${open && html`<${LogView} name=${job.log_name} rows=${10} />`}
    </details>`;
}
