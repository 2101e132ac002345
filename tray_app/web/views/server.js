// @ts-check
/** The server: is it up, where, with what in memory, on which runtime, and what it writes. */

import { html, useState } from '../html.js';
import { unloadModel } from '../actions.js';
import { activeModel, gateway, lastRequest, link, memory, modelById, nameOf, runtime, runtimeById, serverState, statuses, statusText } from '../store.js';
import { programOf } from '../connect-snippets.js';
import { bytes, contextShort, plural } from '../format.js';
import { gpuMemory, offloadView } from '../runtime-words.js';
import { LogCard } from '../components/log-viewer.js';
import { ModelStateText } from '../components/model-state.js';
import { Slots } from '../components/slots.js';
import { Ago, Callout, Card, CodeBlock, CopyButton, Dot, PageHead, Spinner, Words } from '../components/ui.js';
import { CommandLine } from './model-drawer.js';
import { Requests } from './requests.js';
import { SharingCard } from './sharing.js';
import { RuntimeCard } from './runtime-card.js';
import { SpeedCard } from './speed-card.js';

const WORDS = { stopped: 'Stopped', starting: 'Starting', ready: 'Ready', busy: 'Answering', error: 'Needs attention' };
const TONES = { stopped: 'idle', starting: 'busy', ready: 'ok', busy: 'ok', error: 'bad' };

export const ServerView = () => html`
  <div class="page">
    <${PageHead} title="Server" />
    <div class="page-scroll"><div class="server-grid">
      <div class="server-column"><${StatusCard} /><${ConnectCard} /><${SharingCard} /></div>
      <div class="server-column"><${MemoryCard} /><${RuntimeCard} /></div>
      <${SpeedCard} />
      <${Requests} />
      <${LogCard} />
    </div></div>
  </div>`;

function StatusCard() {
  const state = serverState.value;
  const door = gateway.value;
  const open = link.value === 'open';
  const tone = open ? TONES[state] : 'idle';
  return html`
    <section class="card status-card" aria-label="Status" data-tone=${tone}>
      <p class="status-word">${open && state === 'starting' ? html`<${Spinner} />` : html`<${Dot} tone=${tone} />`}
        <span role="status">${open ? WORDS[state] : 'Not connected'}</span></p>
      <p class="status-line">${open ? html`<${Words} text=${statusText.value} />` : link.value === 'expired'
        ? 'Open the window again from the tray icon.' : 'This page reconnects by itself when the engine answers.'}</p>
      ${open && door?.error && html`<${Callout} message=${door.error.message} remedy=${door.error.remedy} />`}
      <div class="address"><span class="muted">Address</span>
        <code class="mono" title=${door?.base_url}>${door?.base_url}</code><${CopyButton} text=${door?.base_url ?? ''} label="Copy address" /></div>
      <p class="muted digits">${plural(door?.requests_total ?? 0, 'request')} answered
        ${lastRequest.value && html`, the last one <${Ago} at=${lastRequest.value.started_at} />`}</p>
    </section>`;
}

function MemoryCard() {
  const m = memory.value;
  const resident = statuses.value.filter((s) => !['unloaded', 'failed'].includes(s.state));
  if (!m) return null;
  const free = Math.max(0, m.budget_bytes - m.models_bytes);
  const over = m.models_bytes > m.budget_bytes;
  const part = m.budget_bytes ? Math.min(1, m.models_bytes / m.budget_bytes) : 0;
  return html`
    <${Card} title="Memory">
      <div class="meter" data-over=${over} role="img"
        aria-label=${`Models hold ${bytes(m.models_bytes)} of ${bytes(m.budget_bytes)}`}>
        <span style=${{ width: `${part * 100}%` }}></span></div>
      <p class="meter-words digits"><span><strong>${bytes(m.models_bytes)}</strong> held by models</span>
        <span>${over ? 'over the budget' : `${bytes(free)} free`} of ${bytes(m.budget_bytes)}</span></p>
      <p class="muted digits hint">This computer has ${bytes(m.total_bytes)}, ${bytes(m.available_bytes)} of it available now.
        ${gpuMemory(runtime.value?.hardware).map((line) => ` ${line}`)}</p>
      ${resident.length
        ? html`<ul class="resident">${resident.map((s) => html`<${Resident} key=${s.model_id} status=${s} />`)}</ul>`
        : html`<p class="muted nothing-line">No model is in memory. One loads when it is asked.</p>`}
    <//>`;
}

/** @param {{status: import('../types.js').ModelStatus}} props */
function Resident({ status }) {
  const model = modelById.value.get(status.model_id);
  const facts = [
    status.memory_bytes != null && bytes(status.memory_bytes),
    status.context_length != null && `${contextShort(status.context_length)} context`,
    status.pid != null && `process ${status.pid}`,
  ].filter(Boolean).join(' · ');
  const offload = offloadView(status.offload, runtimeById.value.get(status.runtime_id ?? ''));
  const idle = status.state === 'ready' && !status.in_flight && status.last_used_at != null;
  return html`
    <li class="resident-row">
      <div><span class="resident-name">${nameOf(status.model_id)}</span>
        <span class="muted digits">${facts}${idle && html` · used <${Ago} at=${status.last_used_at} />`}</span>
        ${offload && html`<span class="offload digits" data-tone=${offload.tone} title=${status.runtime_id ?? undefined}>${offload.text}</span>`}
        <${Slots} status=${status} /></div>
      ${model && html`<${ModelStateText} model=${model} />`}
      <button type="button" class="button small quiet" disabled=${status.state !== 'ready' || status.in_flight > 0}
        onClick=${() => unloadModel(status.model_id)}>Unload</button>
    </li>`;
}

function ConnectCard() {
  const [tab, setTab] = useState(/** @type {'curl' | 'python' | 'command'} */ ('curl'));
  const model = activeModel.value;
  const ask = {
    base: gateway.value?.base_url ?? '', model: 'default', follows: model?.id ?? '', keyed: Boolean(gateway.value?.key_required),
    embedding: model?.kind === 'embedding', linux: true,
  };
  const tabs = /** @type {const} */ ([['curl', 'curl'], ['python', 'Python'], ['command', 'llama-server']]);
  return html`
    <${Card} title="Connect" class="connect-card" actions=${html`
      <div class="tabs" role="tablist" aria-label="Example">
        ${tabs.map(([key, title]) => html`
          <button key=${key} type="button" role="tab" class="tab" aria-selected=${tab === key} onClick=${() => setTab(key)}>${title}</button>`)}
      </div>`}>
      <p class="muted hint">${model
        ? html`“default” goes to <strong>${model.name}</strong>, and to the next model you pick. Any other model answers by its id.`
        : 'Pick a model on the Models page first: “default” goes to it.'}</p>
      ${tab === 'command'
        ? model ? html`<${CommandLine} model=${model} />` : html`<p class="muted">No model is in use.</p>`
        : html`<${CodeBlock} text=${programOf(tab).write(ask).text} label=${`${tab} example`} />`}
      <p><a href="#/connect">Other programs</a></p>
    <//>`;
}
