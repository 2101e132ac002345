// @ts-check
/** The llama.cpp build in use, and how to get one. */

import { html, useEffect, useRef, useState } from '../html.js';
import { buildRuntime, cancelJob, findRuntime, pending } from '../actions.js';
import { jobInView, jobs, runtime } from '../store.js';
import { clock, progressText } from '../format.js';
import { lastJob } from '../components/chrome.js';
import { LogView } from '../components/log-viewer.js';
import { Callout, Card, Progress, Spinner } from '../components/ui.js';

/** @type {Record<string, string>} */
const ORIGINS = { settings: 'chosen in Settings', built: 'built by Llama Wrangler', path: 'found on the PATH', environment: 'named in the environment', folder: 'found in the runtimes folder' };

export function RuntimeCard() {
  const status = runtime.value;
  if (!status) return null;
  const job = jobs.value.find((j) => j.id === status.job_id) ?? lastJob('build_runtime');
  const running = job && (job.state === 'running' || job.state === 'queued');
  const active = status.active;
  return html`
    <${Card} title="Runtime" class="runtime-card" actions=${html`
      <button type="button" class="button small quiet" disabled=${status.state === 'searching' || pending.value.has('find_runtime:')}
        onClick=${() => findRuntime()}>Look again</button>
      <button type="button" class=${active ? 'button small' : 'button small primary'} disabled=${running || pending.value.has('build_runtime:')}
        onClick=${() => buildRuntime()}>${active ? 'Build again' : 'Build llama.cpp'}</button>`}>
      ${status.state === 'searching' && html`<p class="state-line"><${Spinner} /> Looking for llama.cpp…</p>`}
      ${active ? html`<${RuntimeFacts} active=${active} />`
        : status.state !== 'searching' && !running && !status.error && html`
          <p>No llama.cpp was found. It is the program that runs the models; building it here takes some minutes once.</p>`}
      ${status.error && html`<${Callout} message=${status.error.message} remedy=${status.error.remedy} tone=${active ? 'warn' : 'bad'} />`}
      ${status.rejected?.length > 0 && html`
        <details class="rejected"><summary>${status.rejected.length} other llama-server${status.rejected.length > 1 ? 's' : ''} found and not used</summary>
          <ul>${status.rejected.map((r) => html`<li key=${r.path}><code class="mono wrap">${r.path}</code><br />${r.reason}</li>`)}</ul>
        </details>`}
      ${job && (running || job.state === 'failed') && html`<${Build} job=${job} running=${running} />`}
    <//>`;
}

/** @param {{active: import('../types.js').Runtime}} props */
const RuntimeFacts = ({ active }) => html`
  <dl class="facts">
    <div class="fact"><dt>llama.cpp</dt><dd>${active.build != null ? `build ${active.build}` : active.version_text}, ${ORIGINS[active.origin] ?? active.origin}</dd></div>
    <div class="fact"><dt>Backend</dt><dd>${active.backend.toUpperCase()}</dd></div>
    <div class="fact"><dt>Devices</dt><dd>${active.devices.length ? active.devices.map((d) => html`<div key=${d}>${d}</div>`) : 'Processor only'}</dd></div>
    <div class="fact"><dt>Program</dt><dd><code class="mono wrap">${active.server_path}</code></dd></div>
  </dl>`;

/** @param {{job: import('../types.js').Job, running: boolean | null}} props */
function Build({ job, running }) {
  const [open, setOpen] = useState(true);
  const line = useRef(/** @type {any} */ (null));
  useEffect(() => { // what is in view here need not stand in the strip below too
    if (!running) return undefined;
    const watch = new IntersectionObserver((seen) => { jobInView.value = seen[seen.length - 1].isIntersecting ? job.id : ''; }, { threshold: 1 });
    watch.observe(line.current);
    return () => {
      watch.disconnect();
      jobInView.value = '';
    };
  }, [job.id, running]);
  return html`
    <div class="build">
      ${running
        ? html`<div ref=${line} class="build-line">
            <span class="build-step">${job.step || job.title}</span>
            <span class="muted digits">${progressText(job.done, job.total, job.unit)}${job.eta_s != null && ` · ${clock(job.eta_s)} left`}</span>
            <button type="button" class="button small" disabled=${pending.value.has(`cancel_job:${job.id}`)}
              onClick=${() => cancelJob(job.id)}>Cancel</button>
          </div>
          <${Progress} label=${job.title} value=${job.done} max=${job.total} />`
        : job.error && html`<${Callout} message=${job.error.message} remedy=${job.error.remedy} />`}
      ${job.log_name && html`
        <details open=${open} onToggle=${(/** @type {any} */ e) => setOpen(e.target.open)}>
          <summary>Build log</summary>
          ${open && html`<${LogView} name=${job.log_name} rows=${10} />`}
        </details>`}
    </div>`;
}
