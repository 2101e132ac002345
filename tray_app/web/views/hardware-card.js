// @ts-check
/** What this computer computes with, as its own tools tell it. */

import { html } from '../html.js';
import { pending, readHardware } from '../actions.js';
import { now, runtime } from '../store.js';
import { cpuFacts, gpuFacts, layersBelow } from '../runtime-words.js';
import { ago, bytes } from '../format.js';
import { Icon } from '../components/icons.js';
import { Callout, Card, Spinner } from '../components/ui.js';

/** @typedef {import('../types.js').Hardware} Hardware */

export function HardwareCard() {
  const hardware = runtime.value?.hardware ?? null;
  const reading = pending.value.has('read_hardware:');
  return html`
    <${Card} title="This computer" actions=${html`
      ${hardware && hardware.read_at > 0 && html`<span class="muted hint seen-at">as of ${ago(hardware.read_at, now.value)}</span>`}
      <button type="button" class="button small quiet" disabled=${reading} onClick=${() => readHardware()}>
        ${reading ? html`<${Spinner} />` : html`<${Icon} name="refresh" />`}<span>Look again</span></button>`}>
      ${hardware ? html`<${Parts} hardware=${hardware} />`
        : html`<p class="state-line muted"><${Spinner} /> Looking at processor and graphics…</p>`}
    <//>`;
}

/** @param {{hardware: Hardware}} props */
function Parts({ hardware }) {
  const below = layersBelow(hardware);
  const cores = cpuFacts(hardware);
  return html`
    <dl class="facts digits">
      <div class="fact"><dt>Processor</dt><dd class="stacked"><span>${hardware.cpu_name ?? 'not known'}</span>
        ${cores && html`<span class="muted">${cores}</span>`}</dd></div>
      <div class="fact"><dt>Memory</dt><dd>${bytes(hardware.memory_bytes)}</dd></div>
      <div class="fact"><dt>Graphics</dt><dd>${hardware.gpus.length === 0 ? html`<span class="muted">none was found</span>` : html`
        <ul class="plain-list gpus">${hardware.gpus.map((gpu, i) => html`
          <li key=${gpu.bus_id ?? i}><span>${gpu.name}</span><span class="muted">${gpuFacts(gpu)}</span></li>`)}</ul>`}</dd></div>
      ${below && html`<div class="fact"><dt>Drivers</dt><dd>${below}</dd></div>`}
    </dl>
    ${hardware.problems.map((problem) => html`<${Callout} key=${problem} tone="warn" message=${problem} />`)}
    ${hardware.cpu_features.length > 0 && html`
      <details class="more"><summary>What the processor can do</summary>
        <p class="feature-list">${hardware.cpu_features.map((name) => html`<code key=${name} class="mono">${name}</code>`)}</p></details>`}`;
}
