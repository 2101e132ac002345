// @ts-check
/** The library before it has a model: three steps to the first one. */

import { html } from '../html.js';
import { chooseFiles, openPath, rescan } from '../actions.js';
import { folders, gateway, home, inWindow, scanning } from '../store.js';
import { Icon } from '../components/icons.js';
import { CopyButton, Spinner } from '../components/ui.js';
import { askToPull } from './pull-dialog.js';

/** @param {{openFolders: () => void}} props */
export function FirstModel({ openFolders }) {
  const path = folders.value.find((f) => f.is_home)?.path ?? `${home.value}/models`;
  return html`
    <div class="first">
      <img class="first-mark" src="/web/icon.svg" alt="" width="64" height="64" />
      <h2>Your first model in three steps</h2>
      <ol class="steps">
        <li>
          <h3>Get a model</h3>
          <p>Discover has a few that fit this computer, and finds thousands more. Each says how it would run here before
            anything is downloaded.</p>
          <div class="row-actions">
            <a class="button primary" href="#/discover"><${Icon} name="discover" /><span>Discover models</span></a>
            <button type="button" class="button" onClick=${() => askToPull()}><${Icon} name="plus" /><span>I have a name or an address</span></button>
          </div>
        </li>
        <li>
          <h3>Or use the ones you have</h3>
          <p>Drop a <code>.gguf</code> file on this window, add the folder where your models are, or put them here:</p>
          <p class="path-line"><code class="mono wrap">${path}</code><${CopyButton} text=${path} label="Copy path" /></p>
          <div class="row-actions">
            ${inWindow.value && html`<button type="button" class="button" onClick=${chooseFiles}>
              <${Icon} name="plus" /><span>Choose a file…</span></button>`}
            <button type="button" class="button" onClick=${openFolders}>
              <${Icon} name="folder" /><span>Add a folder of yours</span></button>
            ${inWindow.value && html`<button type="button" class="button quiet" onClick=${() => openPath(path)}>
              <${Icon} name="open" /><span>Open this folder</span></button>`}
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
