// @ts-check
/**
 * Files, folders and addresses dropped on the page. Their paths come from the window's process
 * (`llama-wrangler:drop`), because a page never sees them; nothing is done with them unasked but
 * bringing them into the library.
 */

import { html, signal } from './html.js';
import { addFolder, run, toast } from './actions.js';
import { look as lookAt } from './convert-state.js';
import { go } from './router.js';
import { inWindow } from './store.js';
import { Icon } from './components/icons.js';
import { askToPull } from './views/pull-dialog.js';

const over = signal(false);

/** @param {string[]} paths */
export async function take(paths) {
  for (const path of paths.slice(0, 20)) {
    if (/\.gguf$/i.test(path)) await bring(path);
    else await look(path);
  }
}

/** What is no GGUF file: a folder with some is added; of anything else it is said what it is. @param {string} path */
async function look(path) {
  const result = await run('inspect_model', { path }, path);
  if (!result.ok) return;
  const { actions, title, problem, remedy } = result.value;
  if (actions.includes('import')) {
    if (await addFolder(path)) toast('ok', 'The folder was added to the library.');
  } else if (actions.includes('convert') || actions.includes('convert_lora')) {
    lookAt(path);
    go('convert');
  } else toast('bad', problem || title, remedy);
}

/** @param {string} path */
async function bring(path) {
  const result = await run('import_model', { path }, path);
  if (result.ok) toast('ok', 'It is being brought into the library.');
}

/** @param {DragEvent} event */
function dropped(event) {
  over.value = false;
  const data = event.dataTransfer;
  if (!data) return;
  const files = data.types.includes('Files');
  const text = data.getData('text/uri-list') || data.getData('text/plain');
  event.preventDefault(); // the page itself must never be left for a file
  if (!files && text && !/^file:/i.test(text)) askToPull(text.split('\n')[0].trim());
  else if (files && !inWindow.value) toast('bad', 'Only the app’s own window learns where a dropped file is.', 'Add its folder under Models instead.');
}

if (typeof document !== 'undefined') {
  addEventListener('dragover', (event) => {
    const types = event.dataTransfer?.types ?? [];
    if (!(types.includes('Files') || types.includes('text/uri-list'))) return;
    event.preventDefault();
    over.value = true;
  });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) over.value = false; });
  addEventListener('drop', dropped);
  addEventListener('llama-wrangler:drop', (event) => {
    over.value = false;
    const { paths } = /** @type {any} */ (event).detail ?? {};
    if (Array.isArray(paths)) take(paths.map(String));
  });
}

export const DropVeil = () => over.value && html`
  <div class="drop-veil" aria-hidden="true"><div><${Icon} name="downloads" /><p>Drop a .gguf file or a folder with models</p></div></div>`;
