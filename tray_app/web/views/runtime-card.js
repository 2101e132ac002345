// @ts-check
/** The runtime on the server page: one line, and the way to the page that has the rest. */

import { html } from '../html.js';
import { now, runtime } from '../store.js';
import { backendName, buildText, proofView } from '../runtime-words.js';
import { runtimeJobs } from '../runtime-offers.js';
import { Callout, Card, Dot, Spinner } from '../components/ui.js';

export function RuntimeCard() {
  const status = runtime.value;
  if (!status) return null;
  const { active } = status;
  const job = runtimeJobs.value.find((one) => one.state === 'running');
  const proof = proofView(active?.proof ?? null, now.value);
  const tone = status.on_trial ? 'idle' : proof.tone;
  return html`
    <${Card} title="Runtime" class="runtime-card" actions=${html`
      <a class=${active || job ? 'button small' : 'button small primary'} href="#/runtimes">${active || job ? 'Manage runtimes' : 'Get a runtime'}</a>`}>
      ${active
        ? html`<p class="runtime-short"><span>llama.cpp ${buildText(active)} · ${backendName(active.backend)}</span>
            <span class="proof-line" data-tone=${tone}><${Dot} tone=${tone} /><span>${
              status.on_trial ? 'On trial until it has answered with your model' : proof.text}</span></span></p>`
        : status.state === 'searching' ? html`<p class="state-line"><${Spinner} /> Looking for llama.cpp…</p>`
        : !job && !status.error && html`<p>No llama.cpp was found. It is the program that runs the models.</p>`}
      ${job && html`<p class="state-line muted"><${Spinner} /> ${job.title}</p>`}
      ${status.error && html`<${Callout} message=${status.error.message} remedy=${status.error.remedy} tone=${active ? 'warn' : 'bad'} />`}
    <//>`;
}
