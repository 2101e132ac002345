// @ts-check
/** Convert: original weights of this computer or of a repository become models that run. */

import { html, useEffect } from '../html.js';
import { pending, pickFolder, run } from '../actions.js';
import { inWindow } from '../store.js';
import { bytes } from '../format.js';
import { askOverview, asking, error, look, overview, plan, source, tasksKey } from '../convert-state.js';
import { Icon } from '../components/icons.js';
import { Callout, Card, PageHead, Spinner } from '../components/ui.js';
import { PlanCard } from './convert-plan.js';
import { ConvertTasks, Unfinished } from './convert-tasks.js';

export function ConvertView() {
  useEffect(() => { askOverview(); }, [tasksKey.value]);
  return html`
    <div class="page convert">
      <${PageHead} title="Convert" sub="Original weights become GGUF, and smaller" />
      <div class="page-scroll"><div class="column">
        <${SourceCard} />
        ${plan.value && html`<${PlanCard} p=${plan.value} />`}
        <${ConvertTasks} />
        <${Unfinished} />
        ${overview.value && html`<${ConverterCard} found=${overview.value.converter} />`}
      </div></div>
    </div>`;
}

function SourceCard() {
  const choose = async () => {
    const folder = await pickFolder();
    if (folder) look(folder);
  };
  return html`
    <${Card} title="What to convert" class="source-card">
      <p class="muted">A folder with a model’s original weights (config.json, a tokenizer and .safetensors), a LoRA adapter’s folder, or a
        repository of Hugging Face. You can drop a folder on this window, too.</p>
      <form class="source-line" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); look(); }}>
        <input class="input mono" aria-label="Folder or repository" placeholder="org/repo or /path/to/folder" value=${source.value} maxlength="4000"
          spellcheck=${false} autocomplete="off" onInput=${(/** @type {any} */ e) => { source.value = e.target.value; }} />
        <button type="submit" class="button" disabled=${!source.value.trim() || asking.value}>Look at it</button>
        ${inWindow.value && html`<button type="button" class="button" onClick=${choose}><${Icon} name="folder" /><span>Choose a folder…</span></button>`}
      </form>
      <div aria-live="polite">
        ${asking.value && html`<p class="muted state-line"><${Spinner} /> Looking at it…</p>`}
        ${error.value && html`<${Callout} message=${error.value.message} remedy=${error.value.remedy} />`}
      </div>
    <//>`;
}

/** @param {{found: import('../types.js').Converter}} props */
function ConverterCard({ found }) {
  const act = async (/** @type {string} */ name, /** @type {Record<string, unknown>} */ args = {}) => {
    await run(name, args);
    askOverview();
  };
  const busy = found.installing || pending.value.has('install_converter:') || pending.value.has('remove_converter:');
  const words = found.ready
    ? `It is ready: ${bytes(found.size_bytes)}, with Python ${found.python ?? ''}.`
    : found.installing ? 'It is being installed.'
      : `It is installed when it is first needed: about ${bytes(found.install_bytes)}, in the app’s own folder.`;
  return html`
    <${Card} title="The converter" actions=${html`
      ${found.ready && html`<button type="button" class="button small quiet" disabled=${busy} onClick=${() => act('install_converter', { repair: true })}>Repair</button>
        <button type="button" class="button small quiet" disabled=${busy} onClick=${() => act('remove_converter')}>Remove</button>`}
      ${!found.ready && !found.problem && html`<button type="button" class="button small quiet" disabled=${busy}
        onClick=${() => act('install_converter')}>Install now</button>`}`}>
      <p class="muted">llama.cpp’s conversion scripts run in a Python environment of their own, with PyTorch for the processor. ${words}</p>
      ${found.problem && html`<${Callout} tone="warn" message=${found.problem} remedy=${found.remedy} />`}
    <//>`;
}
