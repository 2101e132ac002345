// @ts-check
/** Everything about one model: facts, memory, the command that runs it, its own settings. */

import { html, useEffect, useState } from '../html.js';
import { attempt, loadModel, openPath, pinModel, unloadModel, useModel } from '../actions.js';
import { activeId, inWindow, runtimeById, settings, statusOf } from '../store.js';
import { bytes, duration, integer, kindHint, memoryEstimate, parameters, quantizationHint } from '../format.js';
import { offloadView, runtimeName } from '../runtime-words.js';
import { Drawer } from '../components/drawer.js';
import { ModelStateText } from '../components/model-state.js';
import { Ago, Callout, CodeBlock, CopyButton } from '../components/ui.js';
import { BenchCard } from './bench-card.js';
import { Badges, HOLDS } from './model-row.js';
import { ModelSettings } from './model-settings.js';
import { OriginOf } from './model-origin.js';
import { QuantizeDialog } from './quantize-dialog.js';

/** @typedef {import('../types.js').Model} Model */

/** @param {{model: Model, onClose: () => void}} props */
export function ModelDrawer({ model, onClose }) {
  const status = statusOf(model.id);
  return html`
    <${Drawer} title=${model.name} onClose=${onClose}
      sub=${html`<p class="drawer-sub"><span class="muted">${model.publisher ?? 'Unknown publisher'}</span><${Badges} model=${model} /></p>`}>
      <div class="drawer-state"><${ModelStateText} model=${model} idle="Not in memory" /></div>
      ${status.error && html`<${Callout} message=${status.error.message} remedy=${status.error.remedy}
        tone=${status.state === 'failed' ? 'bad' : 'warn'} />`}
      ${!model.available && html`<${Callout} tone="warn" message=${`${model.folder} cannot be reached.`}
        remedy="Connect the drive or restore the folder; the model comes back by itself." />`}
      <${Actions} model=${model} />
      <${Facts} model=${model} />
      <${OriginOf} model=${model} />
      <${BenchCard} model=${model} />
      <${CommandLine} model=${model} />
      <h3>Settings of this model</h3>
      <${ModelSettings} model=${model} />
    <//>`;
}

/** @param {{model: Model}} props */
function Actions({ model }) {
  const { state } = statusOf(model.id);
  const active = activeId.value === model.id;
  const pinned = Boolean(settings.value.models?.[model.id]?.pinned);
  const idle = state === 'unloaded' || state === 'failed';
  const [quantizing, setQuantizing] = useState(false);
  return html`
    <div class="drawer-actions">
      <button type="button" class="button primary" disabled=${active || !model.available} onClick=${() => useModel(model.id)}>
        ${active ? 'In use' : 'Use this model'}</button>
      ${HOLDS.has(state)
        ? html`<button type="button" class="button" onClick=${() => unloadModel(model.id)}>Unload</button>`
        : html`<button type="button" class="button" disabled=${!idle || !model.available}
            title="Loads it into memory without changing which model is in use" onClick=${() => loadModel(model.id)}>Load</button>`}
      <button type="button" class="button" aria-pressed=${pinned} title="A pinned model is never unloaded to make room"
        onClick=${() => pinModel(model.id, !pinned)}>${pinned ? 'Pinned' : 'Pin'}</button>
      <button type="button" class="button quiet" disabled=${!model.available} onClick=${() => setQuantizing(true)}>Quantize…</button>
      ${inWindow.value && html`<button type="button" class="button quiet" onClick=${() => openPath(model.folder)}>Open folder</button>`}
      ${quantizing && html`<${QuantizeDialog} model=${model} onClose=${() => setQuantizing(false)} />`}
    </div>`;
}

/** @param {{name: string, children?: any}} props */
const Fact = ({ name, children }) => html`<div class="fact"><dt>${name}</dt><dd>${children}</dd></div>`;

/** @param {{model: Model}} props */
function Facts({ model }) {
  const status = statusOf(model.id);
  const wished = settings.value.models?.[model.id]?.context_length ?? settings.value.server?.context_length ?? 8192;
  const ran = runtimeById.value.get(status.runtime_id ?? '');
  const offload = offloadView(status.offload, ran);
  const context = status.context_length ?? Math.min(wished, model.context_length ?? wished);
  return html`
    <dl class="facts digits">
      <${Fact} name="Id"><code class="mono wrap">${model.id}</code><${CopyButton} text=${model.id} label="Copy id" /><//>
      <${Fact} name="Size">${bytes(model.size_bytes)}${model.shard_count > 1 ? ` in ${model.shard_count} files` : ''}<//>
      <${Fact} name="Parameters">${parameters(model)}<//>
      <${Fact} name="Quantization">${model.quantization ?? '–'}<p class="muted hint">${quantizationHint(model.quantization)}</p><//>
      <${Fact} name="Architecture">${model.architecture ?? '–'}<//>
      <${Fact} name="Made for">${kindHint(model.kind)}<//>
      <${Fact} name="Context">${integer(context)} tokens
        <span class="muted"> of ${integer(model.context_length)} it was trained for</span><//>
      <${Fact} name="Memory">${status.memory_bytes != null
        ? bytes(status.memory_bytes)
        : html`about ${bytes(memoryEstimate(model, context))}<span class="muted"> with this context</span>`}<//>
      ${offload && html`<${Fact} name="Computes"><span class="offload" data-tone=${offload.tone}>${offload.text}</span><//>`}
      ${status.runtime_id && html`<${Fact} name="Runtime"><span title=${ran && runtimeName(ran)}>${status.runtime_id}</span><//>`}
      ${status.load_s != null && html`<${Fact} name="Last load">took ${duration(status.load_s)}<//>`}
      ${status.last_used_at != null && html`<${Fact} name="Last used"><${Ago} at=${status.last_used_at} /><//>`}
      ${status.pid != null && html`<${Fact} name="Process">${status.pid}<//>`}
      ${model.license && html`<${Fact} name="Licence">${model.license}<//>`}
      <${Fact} name="File"><code class="mono wrap">${model.path}</code><${CopyButton} text=${model.path} label="Copy path" /><//>
    </dl>`;
}

/** The exact command the engine runs for a model. @param {{model: Model}} props */
export function CommandLine({ model }) {
  const [text, setText] = useState('');
  const [error, setError] = useState(/** @type {any} */ (null));
  const own = settings.value.models?.[model.id];
  const state = statusOf(model.id).state;
  useEffect(() => {
    let gone = false;
    attempt('launch_command', { model_id: model.id }).then((result) => {
      if (gone) return;
      setText(result.ok ? result.value.text : '');
      setError(result.ok ? null : result.error);
    });
    return () => { gone = true; };
  }, [model.id, own, settings.value.server, state]);
  return html`
    <h3>Command</h3>
    ${error
      ? html`<${Callout} tone="warn" message=${error.message} remedy=${error.remedy} />`
      : html`<${CodeBlock} text=${text || ' '} label="command line" wrap />`}`;
}
