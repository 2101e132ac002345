// @ts-check
/** Every runtime there is: used, removed, or tried from where it lies. */

import { html, useState } from '../html.js';
import { attempt, findRuntime, pending, pickFolder, removeRuntime, useRuntime } from '../actions.js';
import { inWindow, nameOf, now, runtime, settings } from '../store.js';
import { backendName, buildText, isOurs, originText, proofMark, proofView } from '../runtime-words.js';
import { runtimeBusy } from '../runtime-offers.js';
import { bytes, day, plural } from '../format.js';
import { Icon } from '../components/icons.js';
import { Badge, Callout, Card, CopyButton, IconButton, Modal, Words } from '../components/ui.js';

/** @typedef {import('../types.js').Runtime} Runtime */

export function InstalledCard() {
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState(/** @type {Runtime | null} */ (null));
  const { installed = [], rejected = [] } = runtime.value ?? {};
  const held = installed.reduce((sum, one) => sum + (isOurs(one) ? one.size_bytes ?? 0 : 0), 0);
  return html`
    <${Card} title="Installed" class="installed-card" actions=${html`
      <button type="button" class="button small quiet" disabled=${runtime.value?.state === 'searching' || pending.value.has('find_runtime:')}
        onClick=${() => findRuntime()}><${Icon} name="search" /><span>Search again</span></button>
      <button type="button" class="button small" aria-expanded=${adding} onClick=${() => setAdding(!adding)}>
        <${Icon} name="plus" /><span>Add a build of mine…</span></button>`}>
      ${adding && html`<${AddOwn} onDone=${() => setAdding(false)} />`}
      ${installed.length === 0 ? html`<p class="muted nothing-line">None. What is installed, built or found appears here.</p>` : html`
        <ul class="installed">${installed.map((one) => html`<${InstalledRow} key=${one.id} runtime=${one} onRemove=${() => setRemoving(one)} />`)}</ul>`}
      ${held > 0 && html`<p class="muted hint digits">Those that Llama Wrangler keeps take ${bytes(held)}.</p>`}
      ${rejected.length > 0 && html`
        <details class="rejected"><summary>${plural(rejected.length, 'other llama-server')} found and not used</summary>
          <ul>${rejected.map((r) => html`<li key=${r.path}><code class="mono wrap">${r.path}</code><span class="muted">${r.reason}</span></li>`)}</ul>
        </details>`}
      ${removing && html`<${AskRemove} runtime=${removing} onClose=${() => setRemoving(null)} />`}
    <//>`;
}

/** @param {{runtime: Runtime, onRemove: () => void}} props */
function InstalledRow({ runtime: one, onRemove }) {
  const active = runtime.value?.active?.id === one.id;
  const mark = proofMark(one.proof);
  const facts = [
    buildText(one), backendName(one.backend), originText(one.origin),
    one.size_bytes != null && bytes(one.size_bytes), one.installed_at != null && day(one.installed_at),
  ].filter(Boolean);
  return html`
    <li class="installed-row" data-active=${active}>
      <div class="installed-words">
        <p class="installed-line"><span class="installed-id">${one.id}</span>
          ${active && html`<${Badge} tone="ok">in use</${Badge}>`}
          ${runtime.value?.previous_id === one.id && html`<${Badge} title="In use before the present one">previous</${Badge}>`}
          <${Badge} tone=${mark.tone === 'ok' ? 'plain' : mark.tone} title=${proofView(one.proof, now.value).text}>${mark.text}</${Badge}></p>
        <p class="muted digits installed-facts">${facts.join(' · ')}</p>
        <${RowDetails} runtime=${one} />
      </div>
      <div class="installed-actions">
        ${!active && html`<button type="button" class="button small" aria-label=${one.proof?.ok === false ? `Try ${one.id} again` : `Use ${one.id}`}
          disabled=${runtimeBusy.value || pending.value.has(`use_runtime:${one.id}`)} onClick=${() => useRuntime(one.id)}>${
            one.proof?.ok === false ? 'Try again' : 'Use'}</button>`}
        ${isOurs(one) && !active && html`<${IconButton} icon="trash" label=${`Remove ${one.id}`}
          disabled=${pending.value.has(`remove_runtime:${one.id}`)} onClick=${onRemove} />`}
      </div>
    </li>`;
}

/** @param {{runtime: Runtime}} props */
const RowDetails = ({ runtime: one }) => html`
  <details class="more"><summary>Details</summary>
    <dl class="facts">
      <div class="fact"><dt>Proof</dt><dd><${Words} text=${proofView(one.proof, now.value).text} /></dd></div>
      ${one.proof?.error?.remedy && html`<div class="fact"><dt>What helps</dt><dd><${Words} text=${one.proof.error.remedy} /></dd></div>`}
      ${one.devices.length > 0 && html`<div class="fact"><dt>Computes on</dt><dd>${one.devices.join(', ')}</dd></div>`}
      ${one.made_from && html`<div class="fact"><dt>Made from</dt><dd class="wrap"><${Words} text=${one.made_from} /></dd></div>`}
      <div class="fact"><dt>Version</dt><dd class="wrap">${one.version_text}</dd></div>
      <div class="fact"><dt>Program</dt><dd><code class="mono wrap">${one.server_path}</code><${CopyButton} text=${one.server_path} label="Copy path" /></dd></div>
    </dl>
  </details>`;

/** Models whose own settings name a runtime. @param {string} id */
function pinnedTo(id) {
  const own = /** @type {Record<string, {runtime?: string}>} */ (settings.value.models ?? {});
  return Object.entries(own).filter(([, table]) => table?.runtime === id).map(([model]) => model);
}

/** @param {{runtime: Runtime, onClose: () => void}} props */
function AskRemove({ runtime: one, onClose }) {
  const pinned = pinnedTo(one.id);
  return html`
    <${Modal} title=${`Remove ${one.id}?`} onClose=${onClose} actions=${html`
      <button type="button" class="button quiet" onClick=${onClose}>Keep it</button>
      <button type="button" class="button danger" onClick=${() => { onClose(); removeRuntime(one.id); }}>Remove</button>`}>
      <p>${one.size_bytes != null ? `This frees ${bytes(one.size_bytes)}.` : 'Its files are deleted.'} It can be installed or built again.</p>
      ${pinned.length > 0 && html`<p>These models are set to run on it:</p>
        <ul>${pinned.map((id) => html`<li key=${id}>${nameOf(id)}</li>`)}</ul>`}
    <//>`;
}

/** @param {{onDone: () => void}} props */
function AddOwn({ onDone }) {
  const [path, setPath] = useState('');
  const [error, setError] = useState(/** @type {any} */ (null));
  const busy = runtimeBusy.value || pending.value.has('use_runtime:own');
  /** @param {string} chosen */
  async function add(chosen) {
    if (!chosen.trim() || busy) return;
    const result = await attempt('use_runtime', { name: chosen.trim() }, 'own');
    setError(result.ok ? null : result.error);
    if (result.ok) onDone();
  }
  async function choose() {
    const chosen = await pickFolder();
    if (!chosen) return;
    setPath(chosen);
    await add(chosen);
  }
  return html`
    <form class="add-own" onSubmit=${(/** @type {Event} */ event) => { event.preventDefault(); add(path); }}>
      <label for="own-runtime">Where your llama-server, or the folder it is in, lies</label>
      <div class="add-folder">
        <input id="own-runtime" class="input mono" placeholder="/path/to/llama.cpp/build/bin" value=${path} spellcheck=${false} autocomplete="off"
          aria-invalid=${error ? 'true' : undefined} onInput=${(/** @type {any} */ e) => setPath(e.target.value)} />
        <button type="submit" class="button primary" disabled=${!path.trim() || busy}>Try it</button>
        ${inWindow.value && html`<button type="button" class="button" disabled=${busy} onClick=${choose}>Choose…</button>`}
      </div>
      <p class="muted hint">It stays where it is, is tried first, and used when it works.</p>
      ${error && html`<${Callout} message=${error.message} remedy=${error.remedy} />`}
    </form>`;
}
