// @ts-check
/** The question before a build from source. */

import { html, useState } from '../html.js';
import { buildRuntime, pending } from '../actions.js';
import { available } from '../runtime-offers.js';
import { backendName } from '../runtime-words.js';
import { Switch } from '../components/fields.js';
import { Modal } from '../components/ui.js';

/** @param {{backend: string, onClose: () => void}} props */
export function BuildDialog({ backend, onClose }) {
  const [portable, setPortable] = useState(false);
  const [activate, setActivate] = useState(true);
  const build = available.value?.source_build;
  async function start() {
    const result = await buildRuntime(backend, { portable, activate });
    if (result.ok) onClose();
  }
  return html`
    <${Modal} title=${`Build llama.cpp${build ? ` b${build}` : ''} for ${backendName(backend)}?`} onClose=${onClose} actions=${html`
      <button type="button" class="button quiet" onClick=${onClose}>Not now</button>
      <button type="button" class="button primary" disabled=${pending.value.has(`build_runtime:${backend}`)} onClick=${start}>Build</button>`}>
      <p>Its source code is compiled on this computer. That takes minutes, or much longer for graphics cards, and can be
        cancelled at any time. Models keep answering meanwhile, a little slower.</p>
      <${Switch} label="Use it when it is proven" checked=${activate} onChange=${setActivate} />
      <${Switch} label="For other processors too" checked=${portable} onChange=${setPortable}
        hint="Off: made for this very processor, which is the fastest." />
    <//>`;
}
