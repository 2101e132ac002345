// @ts-check
/** The library before it has a model: three steps to the first one. */

import { html } from '../html.js';
import { openPath, rescan } from '../actions.js';
import { folders, gateway, home, inWindow, scanning } from '../store.js';
import { Icon } from '../components/icons.js';
import { CopyButton, Spinner } from '../components/ui.js';

/** @param {{openFolders: () => void}} props */
export function FirstModel({ openFolders }) {
  const path = folders.value.find((f) => f.is_home)?.path ?? `${home.value}/models`;
  return html`
    <div class="first">
      <img class="first-mark" src="/web/icon.svg" alt="" width="64" height="64" />
      <h2>Your first model in three steps</h2>
      <ol class="steps">
        <li>
          <h3>Get a model file</h3>
          <p>Models come as one <code>.gguf</code> file. huggingface.co has thousands: look for “GGUF” and take a file
            with <code>Q4_K_M</code> in its name that is smaller than your memory.</p>
        </li>
        <li>
          <h3>Put it where Llama Wrangler looks</h3>
          <p class="path-line"><code class="mono wrap">${path}</code><${CopyButton} text=${path} label="Copy path" /></p>
          <div class="row-actions">
            ${inWindow.value && html`<button type="button" class="button primary" onClick=${() => openPath(path)}>
              <${Icon} name="folder" /><span>Open this folder</span></button>`}
            <button type="button" class=${inWindow.value ? 'button' : 'button primary'} onClick=${openFolders}>
              <${Icon} name="plus" /><span>Add a folder of yours</span></button>
            <button type="button" class="button quiet" disabled=${scanning.value} onClick=${() => rescan()}>
              ${scanning.value ? html`<${Spinner} />` : html`<${Icon} name="refresh" />`}<span>Scan again</span></button>
          </div>
        </li>
        <li>
          <h3>Press “Use”</h3>
          <p>It then answers here under Chat, and every OpenAI client can reach it
            at <code class="mono nowrap">${gateway.value?.base_url ?? ''}</code>.</p>
        </li>
      </ol>
    </div>`;
}
