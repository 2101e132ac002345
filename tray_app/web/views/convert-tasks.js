// @ts-check
/** Conversions under way, the last one that ended, and those that can go on. */

import { html, signal, useState } from '../html.js';
import { cancelJob, pending, run } from '../actions.js';
import { askOverview, stopped, tasks } from '../convert-state.js';
import { bytes, clock, progressText } from '../format.js';
import { Icon } from '../components/icons.js';
import { useInView } from '../components/in-view.js';
import { LogView } from '../components/log-viewer.js';
import { Ago, Callout, Card, Progress, Spinner } from '../components/ui.js';

/** @typedef {import('../types.js').Job} Job */

/** Ended tasks that were read and put away, until the page is loaded again. */
const putAway = signal(/** @type {ReadonlySet<string>} */ (new Set()));
const ENDED = new Set(['done', 'failed']);

export function ConvertTasks() {
  const going = tasks.value.filter((job) => job.state === 'running' || job.state === 'queued').reverse();
  const last = tasks.value[0];
  // What failed and can go on is told once, where it can.
  const told = stopped.value.some((each) => each.title === last?.title && last.state === 'failed');
  const ended = last && ENDED.has(last.state) && !told && !putAway.value.has(last.id) ? last : null;
  if (!going.length && !ended) return null;
  return html`
    <${Card} title=${going.length ? 'Under way' : ended?.state === 'done' ? 'Done' : 'It failed'} class="tasks-card"
      actions=${ended && html`<button type="button" class="button small quiet"
        onClick=${() => { putAway.value = new Set([...putAway.value, ended.id]); }}>Put away</button>`}>
      ${going.map((job) => html`<${Task} key=${job.id} job=${job} />`)}
      ${ended && html`<${Ended} key=${ended.id} job=${ended} />`}
    <//>`;
}

/** @param {{job: Job}} props */
function Task({ job }) {
  const head = useInView(job.id);
  return html`
    <div class="conversion">
      <div ref=${head} class="conversion-head"><b class="wrap">${job.title}</b>
        <button type="button" class="button small" aria-label=${`Cancel: ${job.title}`} disabled=${pending.value.has(`cancel_job:${job.id}`)}
          onClick=${() => cancelJob(job.id)}>Cancel</button></div>
      ${job.state === 'queued' ? html`<p class="muted">Waiting to start</p>` : html`<${Steps} job=${job} />`}
    </div>`;
}

/** @param {{job: Job}} props */
function Steps({ job }) {
  const steps = job.steps?.length ? job.steps : [job.title];
  return html`
    <ol class="job-steps">${steps.map((words, i) => {
      const state = i < job.step_number ? 'done' : i > job.step_number ? 'next' : 'now';
      return html`
        <li key=${words} data-state=${state} aria-current=${state === 'now' ? 'step' : undefined}>
          <span class="job-mark">${state === 'done' ? html`<${Icon} name="check" />` : state === 'now' ? html`<${Spinner} />` : ''}</span>
          <span>${words}<span class="only-read">${state === 'done' ? ', done' : ''}</span></span>
          ${state === 'now' && html`<${Now} job=${job} words=${words} />`}
        </li>`;
    })}</ol>`;
}

/** @param {{job: Job, words: string}} props */
function Now({ job, words }) {
  const facts = [
    job.total != null && progressText(job.done, job.total, job.unit),
    job.rate_per_s && job.unit === 'bytes' && `${bytes(job.rate_per_s)}/s`,
    job.eta_s != null && `${clock(job.eta_s)} left`,
  ].filter(Boolean);
  return html`
    <div class="job-now"><${Progress} label=${words} value=${job.done} max=${job.total} />
      <p class="muted digits hint"><span>${job.step === words ? '' : job.step}</span> <span>${facts.join(' · ')}</span></p></div>`;
}

/** @param {{job: Job}} props */
const Ended = ({ job }) => html`
  <div class="conversion">
    <p class="state-line">${job.state === 'done' && html`<${Icon} name="check" />`}<b class="wrap">${job.title}</b> <span class="muted"><${Ago} at=${job.finished_at} /></span></p>
    ${job.state === 'failed' && html`<${Callout} message=${job.error?.message ?? 'It gave no reason.'} remedy=${job.error?.remedy} />`}
    ${job.state === 'done' && job.kind !== 'install_converter' && html`<p class="muted">What was made was loaded and asked before it was listed. <a href="#/models">See the models</a></p>`}
    ${job.state === 'failed' && html`<${TaskLog} name=${job.log_name} />`}
  </div>`;

/** @param {{name: string | null}} props */
function TaskLog({ name }) {
  const [open, setOpen] = useState(false);
  if (!name) return null;
  return html`
    <details open=${open} onToggle=${(/** @type {any} */ e) => setOpen(e.target.open)}><summary>What it wrote</summary>
      ${open && html`<${LogView} name=${name} rows=${10} />`}</details>`;
}

export function Unfinished() {
  if (!stopped.value.length) return null;
  return html`<${Card} title="Unfinished" class="tasks-card">${stopped.value.map((each) => html`<${Stopped} key=${each.id} u=${each} />`)}<//>`;
}

/** @param {{u: import('../types.js').Unfinished}} props */
function Stopped({ u }) {
  const [sure, setSure] = useState(false);
  const act = async (/** @type {string} */ name) => {
    await run(name, { conversion_id: u.id }, u.id);
    askOverview();
  };
  return html`
    <div class="conversion">
      <div class="conversion-head"><b class="wrap">${u.title}</b>
        <span class="row-actions">
          <button type="button" class="button small primary" disabled=${pending.value.has(`continue_conversion:${u.id}`)} onClick=${() => act('continue_conversion')}>Continue</button>
          ${sure
            ? html`<button type="button" class="button small danger" onClick=${() => act('discard_conversion')}>Delete ${bytes(u.size_bytes)}</button>`
            : html`<button type="button" class="button small quiet" onClick=${() => setSure(true)}>Discard</button>`}
        </span></div>
      <p class="muted digits">Stopped at “${u.steps[u.step_number] ?? 'the end'}”, ${u.step_number} of ${u.steps.length} steps done. ${' '}
        <span class="wrap">From ${u.source}</span></p>
      ${u.error && html`<${Callout} message=${u.error.message} remedy=${u.error.remedy} /><${TaskLog} name="convert.log" />`}
    </div>`;
}
