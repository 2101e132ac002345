// @ts-check
/** The runtime in use: what it is, whether it is proven, and the way back to the one before. */

import { html } from '../html.js';
import { findRuntime, installRuntime, pending, rollBackRuntime, useRuntime } from '../actions.js';
import { nameOf, now, runtime, runtimeById } from '../store.js';
import { backendHint, backendName, buildText, originText, proofView, runtimeName } from '../runtime-words.js';
import { firstOffer } from '../rungs.js';
import { asking, available, rungs, runtimeBusy, runtimeJobs } from '../runtime-offers.js';
import { ago, bytes, duration } from '../format.js';
import { Icon } from '../components/icons.js';
import { Badge, Callout, Card, CopyButton, Dot, Spinner, Words } from '../components/ui.js';

/** @typedef {import('../types.js').Runtime} Runtime */
/** @typedef {import('../types.js').RuntimeStatus} RuntimeStatus */
/** @typedef {{onBuild: (backend: string) => void}} BuildProps */

/** @param {BuildProps} props */
export function ActiveRuntime({ onBuild }) {
  const status = /** @type {RuntimeStatus} */ (runtime.value);
  const { active, previous_id: previous, rolled_back: rolled } = status;
  const last = runtimeJobs.value[0];
  const toldBelow = last?.state === 'failed' && last.error?.message === status.error?.message;
  const error = toldBelow ? null : status.error;
  return html`
    <${Card} title="In use" class="active-card" actions=${previous && html`
      <button type="button" class="button small" disabled=${runtimeBusy.value || pending.value.has('roll_back_runtime:')}
        title=${backTitle(previous)} onClick=${() => rollBackRuntime()}><${Icon} name="back" /><span>Back to ${previous}</span></button>`}>
      ${rolled && html`<${RolledBack} rolled=${rolled} />`}
      ${active ? html`<${ActiveFacts} active=${active} status=${status} />`
        : status.state === 'searching' ? html`<p class="state-line"><${Spinner} /> Looking for llama.cpp on this computer…</p>`
        : html`<${NoRuntime} busy=${runtimeBusy.value} onBuild=${onBuild} />`}
      ${status.update?.told && html`<${Callout} tone="info" message=${`llama.cpp ${status.update.tag} is there.`}>
        <button type="button" class="button small" onClick=${showUpdate}>What is new</button><//>`}
      ${error && html`<${Callout} message=${error.message} remedy=${error.remedy} tone=${active ? 'warn' : 'bad'} />`}
    <//>`;
}

/** Leads the eye and the keyboard to the update further down. */
function showUpdate() {
  const box = document.getElementById('update');
  box?.scrollIntoView({ block: 'center', behavior: 'smooth' });
  box?.focus({ preventScroll: true });
}

/** @param {string} id */
function backTitle(id) {
  const known = runtimeById.value.get(id);
  return known ? `Use ${runtimeName(known)} again, as before` : 'Use it again, as before';
}

/** @param {{rolled: import('../types.js').RolledBack}} props */
const RolledBack = ({ rolled }) => html`
  <${Callout} message=${`${rolled.runtime_id} did not work with ${nameOf(rolled.model_id)}: ${rolled.error.message}`}
    remedy=${`${rolled.back_to} is in use again since ${ago(rolled.at, now.value)}. ${rolled.error.remedy}`} />`;

/** @param {{active: Runtime, status: RuntimeStatus}} props */
function ActiveFacts({ active, status }) {
  const proof = proofView(active.proof, now.value);
  const missing = active.proof?.missing_libraries ?? [];
  const devices = active.devices.length ? active.devices : active.proof?.devices ?? [];
  return html`
    <p class="runtime-word"><span>llama.cpp ${buildText(active)}</span> <${Badge} tone="accent" title=${backendHint(active.backend)}>${backendName(active.backend)}<//></p>
    <p class="proof-line" data-tone=${proof.tone} title=${active.proof?.load_s != null ? `Its test model loaded in ${duration(active.proof.load_s)}` : undefined}><${Dot} tone=${proof.tone} /><span><${Words} text=${proof.text} /></span></p>
    ${status.on_trial && html`<${Callout} tone="info" message="On trial until it has answered with your model."
      remedy="If it fails at that, the one before comes back by itself." />`}
    ${missing.length > 0 && html`<${Callout} tone="warn" message=${`It misses ${missing.join(', ')}.`} />`}
    ${active.proof?.warnings.map((warning) => html`<${Callout} key=${warning} tone="warn" message=${warning} />`)}
    ${status.stepped_down.length > 0 && html`
      <details class="more" open><summary>Tried before it, in vain</summary>
        <ul class="stepped-down">${status.stepped_down.map((line) => html`<li key=${line}><${Words} text=${line} /></li>`)}</ul></details>`}
    <dl class="facts">
      <div class="fact"><dt>Computes on</dt><dd>${devices.length
        ? html`<ul class="plain-list">${devices.map((d) => html`<li key=${d}>${d}</li>`)}</ul>` : 'the processor only'}</dd></div>
      <div class="fact"><dt>From</dt><dd>${originText(active.origin)}</dd></div>
      <div class="fact"><dt>Program</dt><dd><code class="mono wrap">${active.server_path}</code><${CopyButton} text=${active.server_path} label="Copy path" /></dd></div>
    </dl>`;
}

/** Before there is one: the best way to get one, in one button. @param {BuildProps & {busy: boolean}} props */
function NoRuntime({ busy, onBuild }) {
  const offer = firstOffer(rungs.value);
  const buildable = rungs.value.find((view) => view.best && view.build) ?? rungs.value.find((view) => view.build);
  const unknown = available.value === null && asking.value !== '';
  return html`
    <div class="no-runtime">
      <p class="runtime-word">None yet</p>
      <p class="muted">llama.cpp is the program that runs the models. ${busy ? 'It is being fetched; see below.'
        : 'Llama Wrangler gets the one that fits this computer, tries it, and only then uses it.'}</p>
      ${!busy && html`
        <div class="row-actions">
          ${unknown && html`<p class="state-line muted"><${Spinner} /> Looking for the one that fits…</p>`}
          ${offer && html`<${FirstOffer} offer=${offer} onBuild=${onBuild} />`}
          ${buildable && offer !== buildable && html`
            <button type="button" class="button" onClick=${() => onBuild(buildable.rung.backend)}>Build it from source…</button>`}
          <button type="button" class="button quiet" disabled=${pending.value.has('find_runtime:')} onClick=${() => findRuntime()}>
            <${Icon} name="search" /><span>Search this computer</span></button>
        </div>`}
    </div>`;
}

/** @param {BuildProps & {offer: import('../rungs.js').RungView}} props */
function FirstOffer({ offer, onBuild }) {
  const { use, install, rung } = offer;
  const name = backendName(rung.backend);
  if (use) return html`<button type="button" class="button primary" onClick=${() => useRuntime(use.id)}>Use ${use.id}</button>`;
  if (install) {
    return html`<button type="button" class="button primary" disabled=${pending.value.has(`install_runtime:${rung.backend}`)}
      onClick=${() => installRuntime(rung.backend, install.build)}>Install llama.cpp for ${name} (${bytes(install.size_bytes)})</button>`;
  }
  return html`<button type="button" class="button primary" onClick=${() => onBuild(rung.backend)}>Build llama.cpp for ${name}…</button>`;
}
