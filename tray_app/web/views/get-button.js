// @ts-check
/** One button for a model that could be had: download, how far it is, use. */

import { html } from '../html.js';
import { pending, run, toast, useModel } from '../actions.js';
import { activeId, downloads } from '../store.js';
import { isUnfinished, percent } from '../download-words.js';

/**
 * Gets a model at once, and shows how far it is.
 * @param {{reference: string, modelId: string | null, title: string, small?: boolean, disabled?: boolean, main?: boolean}} props
 */
export function GetButton({ reference, modelId, title, disabled, main = true }) {
  const going = downloads.value.find((d) => d.reference === reference && isUnfinished(d));
  if (modelId) {
    const inUse = modelId === activeId.value;
    return html`<button type="button" class="button small" disabled=${inUse} onClick=${() => useModel(modelId)}
      aria-label=${`Use ${title}`}>${inUse ? 'In use' : 'In your library: use'}</button>`;
  }
  if (going) return html`<a class="button small" href="#/downloads">${going.state === 'running' ? `Downloading ${percent(going)}` : going.state}</a>`;
  const get = async () => {
    const result = await run('pull', { reference }, reference);
    if (result.ok) toast('ok', 'Added to the downloads.');
  };
  return html`<button type="button" class=${main ? 'button small primary' : 'button small'} disabled=${disabled || pending.value.has(`pull:${reference}`)} onClick=${get}
    aria-label=${`Download ${title}`}>Download</button>`;
}
