// @ts-check
/** Folders the library reads, and the files a scan saw but left out. */

import { html, useState } from '../html.js';
import { addFolder, chooseFolder, openPath, run } from '../actions.js';
import { folders, inWindow, leftOut } from '../store.js';
import { baseName, plural } from '../format.js';
import { Drawer } from '../components/drawer.js';
import { Icon } from '../components/icons.js';
import { Badge, CopyButton, IconButton } from '../components/ui.js';

/** @param {{onClose: () => void}} props */
export const LibraryDrawer = ({ onClose }) => html`
  <${Drawer} title="Folders" onClose=${onClose}
    sub=${html`<p class="muted">Read through all their subfolders. Nothing in them is changed.</p>`}>
    <${Folders} />
    ${leftOut.value.length > 0 && html`
      <details class="left-out" open>
        <summary>${plural(leftOut.value.length, 'file')} left out</summary>
        <ul>
          ${leftOut.value.map((file) => html`
            <li key=${file.path}><strong title=${file.path}>${baseName(file.path)}</strong><span class="muted">${file.reason}</span></li>`)}
        </ul>
      </details>`}
  <//>`;

/** The list of folders with its two ways to add one; also on the settings page. */
export const Folders = () => html`
  <ul class="folders">
    ${folders.value.map((folder) => html`<${FolderLine} key=${folder.path} folder=${folder} />`)}
  </ul>
  <${AddFolder} />`;

/** @param {{folder: import('../types.js').Folder}} props */
function FolderLine({ folder }) {
  const lost = folder.state !== 'ok';
  return html`
    <li class="folder" data-off=${lost}>
      <${Icon} name="folder" />
      <div class="folder-words">
        <span class="mono wrap">${folder.path}</span>
        <span class="muted">
          ${folder.state === 'missing' ? 'Missing: connect its drive, or remove it here.'
            : folder.state === 'unreadable' ? 'Not readable: check its permissions.' : plural(folder.model_count, 'model')}
          ${folder.is_home && html` <${Badge} title="Comes with Llama Wrangler and stays in the list">own folder<//>`}
        </span>
      </div>
      ${inWindow.value
        ? html`<${IconButton} icon="open" label=${`Open ${folder.path}`} disabled=${lost} onClick=${() => openPath(folder.path)} />`
        : html`<${CopyButton} text=${folder.path} label="Copy path" />`}
      ${!folder.is_home && html`
        <${IconButton} icon="trash" label=${`Remove ${folder.path} from the list; its files stay`}
          onClick=${() => run('remove_folder', { path: folder.path })} />`}
    </li>`;
}

export function AddFolder() {
  const [path, setPath] = useState('');
  /** @param {Event} event */
  async function add(event) {
    event.preventDefault();
    if (path.trim() && await addFolder(path.trim())) setPath('');
  }
  return html`
    <form class="add-folder" onSubmit=${add}>
      <input class="input mono" aria-label="Path of a folder" placeholder="/path/to/models" value=${path} spellcheck=${false}
        onInput=${(/** @type {any} */ e) => setPath(e.target.value)} />
      <button type="submit" class="button" disabled=${!path.trim()}>Add</button>
      ${inWindow.value && html`<button type="button" class="button" onClick=${chooseFolder}>Choose…</button>`}
    </form>`;
}
