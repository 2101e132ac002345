// @ts-check
/** Downloads: the queue in its order, and what has come. */

import { html, signal, useState } from '../html.js';
import { pending, run, useModel } from '../actions.js';
import { activeId, downloads, models, now } from '../store.js';
import { bytes, day, plural } from '../format.js';
import { ASK_ABOVE_BYTES, isUnfinished, percent, progressLine, stateView } from '../download-words.js';
import { Icon } from '../components/icons.js';
import { Badge, Callout, Dot, IconButton, Modal, PageHead, Progress } from '../components/ui.js';
import { askToPull } from './pull-dialog.js';

/** @typedef {import('../types.js').Download} Download */

const FINISHED_SHOWN = 30;
/** The download whose cancelling is asked about. */
const asked = signal(/** @type {Download | null} */ (null));

/** @param {string} name @param {Download} d */
const act = (name, d) => run(name, { download_id: d.id }, d.id);

export function DownloadsView() {
  const open = downloads.value.filter(isUnfinished);
  const ended = downloads.value.filter((d) => !isUnfinished(d));
  const left = open.reduce((sum, d) => sum + Math.max(0, (d.total_bytes ?? 0) - d.done_bytes), 0);
  const sub = open.length ? `${plural(open.length, 'download')}${left ? `, ${bytes(left)} to come` : ''}` : 'Nothing is being downloaded';
  return html`
    <div class="page">
      <${PageHead} title="Downloads" sub=${sub}>
        ${open.some((d) => d.state !== 'paused') && html`<button type="button" class="button quiet" onClick=${() => run('pause_downloads')}>
          <${Icon} name="pause" /><span>Pause all</span></button>`}
        ${open.some((d) => d.state === 'paused' || d.state === 'waiting') && html`<button type="button" class="button quiet" onClick=${() => run('resume_downloads')}>
          <${Icon} name="play" /><span>Resume all</span></button>`}
        <button type="button" class="button" onClick=${() => askToPull()}><${Icon} name="plus" /><span>Get a model…</span></button>
      <//>
      <div class="page-scroll"><div class="column">
        ${downloads.value.length === 0 && html`<${Nothing} />`}
        ${open.length > 0 && html`
          <section class="card downloads" aria-label="Queue"><ul>
            ${open.map((d, i) => html`<${Row} key=${d.id} d=${d} above=${open[i - 1]} below=${open.slice(i + 1)} />`)}
          </ul></section>`}
        ${ended.length > 0 && html`<${Ended} list=${ended} />`}
      </div></div>
      ${asked.value && html`<${CancelDialog} d=${asked.value} />`}
    </div>`;
}

const Nothing = () => html`
  <div class="nothing nothing-tall">
    <${Icon} name="downloads" />
    <h2>Models you download appear here</h2>
    <p class="muted">They go on where they stopped, after a pause, a lost connection or a restart.</p>
    <div class="row-actions"><a class="button primary" href="#/discover">Discover models</a>
      <button type="button" class="button" onClick=${() => askToPull()}>I have a name or an address</button></div>
  </div>`;

/** @param {{d: Download, above: Download | undefined, below: Download[]}} props */
function Row({ d, above, below }) {
  const view = stateView(d, now.value);
  const busy = pending.value.has(`cancel_download:${d.id}`);
  const stopped = d.state === 'paused' || d.state === 'waiting';
  const down = () => run('move_download', { download_id: d.id, before: below[1]?.id ?? null }, d.id);
  return html`
    <li class="download" data-state=${d.state}>
      <div class="download-words">
        <span class="download-title" title=${d.reference}>${d.title}</span>
        <span class="state-text" data-tone=${view.tone}><${Dot} tone=${view.tone} /><span class="state-words">${view.text}</span></span>
      </div>
      <${Progress} label=${`${d.title}: ${percent(d) || view.text}`} value=${d.total_bytes ? d.done_bytes : d.state === 'running' ? null : 0}
        max=${d.total_bytes ?? (d.state === 'running' ? null : 1)} />
      <p class="muted digits download-count">${[percent(d), progressLine(d)].filter(Boolean).join(' · ')}</p>
      ${d.error && html`<${Callout} tone="warn" message=${d.error.message} remedy=${d.error.remedy} />`}
      <div class="download-actions">
        <${IconButton} icon="up" label=${`Earlier: ${d.title}`} disabled=${!above}
          onClick=${() => run('move_download', { download_id: d.id, before: above?.id ?? null }, d.id)} />
        <${IconButton} icon="down" label=${`Later: ${d.title}`} disabled=${!below.length} onClick=${down} />
        ${stopped
          ? html`<${IconButton} icon="play" label=${d.state === 'waiting' ? `Try now: ${d.title}` : `Resume: ${d.title}`} onClick=${() => act('resume_download', d)} />`
          : html`<${IconButton} icon="pause" label=${`Pause: ${d.title}`} onClick=${() => act('pause_download', d)} />`}
        <${IconButton} icon="close" label=${`Cancel: ${d.title}`} disabled=${busy}
          onClick=${() => { if (d.done_bytes > ASK_ABOVE_BYTES) asked.value = d; else act('cancel_download', d); }} />
      </div>
    </li>`;
}

/** @param {{d: Download}} props */
function CancelDialog({ d }) {
  const close = () => { asked.value = null; };
  const cancel = () => { close(); act('cancel_download', d); };
  return html`
    <${Modal} title=${`Cancel ${d.title}?`} onClose=${close} actions=${html`
      <button type="button" class="button quiet" onClick=${close}>Keep it</button>
      <button type="button" class="button" onClick=${() => { close(); act('pause_download', d); }}>Pause instead</button>
      <button type="button" class="button danger" onClick=${cancel}>Cancel download</button>`}>
      <p>${bytes(d.done_bytes)} that are here already would be deleted.</p>
    <//>`;
}

/** @param {{list: Download[]}} props */
function Ended({ list }) {
  const [all, setAll] = useState(false);
  const shown = all ? list : list.slice(0, FINISHED_SHOWN);
  const clearable = list.some((d) => d.state !== 'failed');
  return html`
    <section class="card downloads" aria-label="Finished">
      <div class="card-head"><h2>Finished</h2><div class="card-actions">
        ${clearable && html`<button type="button" class="button small quiet" title="The models stay" onClick=${() => run('clear_downloads')}>Clear list</button>`}</div></div>
      <ul>${shown.map((d) => html`<${EndedRow} key=${d.id} d=${d} />`)}</ul>
      ${shown.length < list.length && html`<button type="button" class="button small quiet" onClick=${() => setAll(true)}>
        Show all ${list.length}</button>`}
    </section>`;
}

/** @param {{d: Download}} props */
function EndedRow({ d }) {
  const view = stateView(d, now.value);
  const model = models.value.find((m) => m.path === d.model_path);
  const inUse = model && model.id === activeId.value;
  const gone = d.state === 'done' && !model;
  return html`
    <li class="download" data-state=${d.state}>
      <div class="download-words">
        <span class="download-title" title=${d.reference}>${d.title}</span>
        ${d.state === 'done' && !gone
          ? html`<span class="muted digits">${bytes(d.done_bytes)}</span>`
          : html`<${Badge} tone=${d.state === 'failed' ? 'bad' : 'plain'}>${gone ? 'No longer in the library' : view.text}<//>`}
        <span class="muted download-day">${day(d.finished_at)}</span>
      </div>
      ${d.error && html`<${Callout} message=${d.error.message} remedy=${d.error.remedy} />`}
      ${d.warnings.map((text) => html`<${Callout} key=${text} tone="warn" message=${text} />`)}
      <div class="download-actions">
        ${model && html`<button type="button" class="button small" disabled=${inUse} onClick=${() => useModel(model.id)}>${inUse ? 'In use' : 'Use'}</button>`}
        ${(d.state === 'failed' || d.state === 'cancelled') && html`<button type="button" class="button small" onClick=${() => act('retry_download', d)}>Try again</button>`}
        ${gone && html`<button type="button" class="button small" onClick=${() => run('pull', { reference: d.reference })}>Get it again</button>`}
        <${IconButton} icon="close" label=${`Remove from the list: ${d.title}`} onClick=${() => act('remove_download', d)} />
      </div>
    </li>`;
}
