// @ts-check
/** Further model names that clients may send, and where they go. */

import { html, useState } from '../html.js';
import { models, settings } from '../store.js';
import { IconButton } from '../components/ui.js';

/** @param {{save: (table: Record<string, string>) => Promise<boolean>, error: any}} props */
export function Aliases({ save, error }) {
  const [name, setName] = useState('');
  const table = /** @type {Record<string, string>} */ (settings.value.aliases ?? {});
  const rows = Object.entries(table).sort(([a], [b]) => a.localeCompare(b));
  /** @param {Event} event */
  async function add(event) {
    event.preventDefault();
    if (name.trim() && await save({ ...table, [name.trim()]: 'default' })) setName('');
  }
  return html`
    <p class="muted hint">For programs that insist on a name such as gpt-4o.</p>
    ${rows.length > 0 && html`
      <ul class="aliases">
        ${rows.map(([alias, target]) => html`
          <li key=${alias}>
            <code class="mono wrap">${alias}</code><span class="muted">goes to</span>
            <${Target} alias=${alias} value=${target} onChange=${(/** @type {string} */ to) => save({ ...table, [alias]: to })} />
            <${IconButton} icon="trash" label=${`Remove ${alias}`}
              onClick=${() => save(Object.fromEntries(rows.filter(([other]) => other !== alias)))} />
          </li>`)}
      </ul>`}
    <form class="add-folder" onSubmit=${add}>
      <input class="input mono" aria-label="Another name" placeholder="gpt-4o" value=${name} spellcheck=${false}
        onInput=${(/** @type {any} */ e) => setName(e.target.value)} />
      <button type="submit" class="button" disabled=${!name.trim()}>Add</button>
    </form>
    ${error && html`<p class="field-error" role="alert">${error.message} ${error.remedy}</p>`}`;
}

/** @param {{alias: string, value: string, onChange: (to: string) => void}} props */
function Target({ alias, value, onChange }) {
  const known = value === 'default' || models.value.some((m) => m.id === value);
  return html`
    <select class="input small" aria-label=${`Where ${alias} goes`} value=${value} onChange=${(/** @type {any} */ e) => onChange(e.target.value)}>
      <option value="default" selected=${value === 'default'}>the model in use</option>
      ${!known && html`<option value=${value} selected>${value} (not in the library)</option>`}
      ${models.value.map((m) => html`<option key=${m.id} value=${m.id} selected=${m.id === value}>${m.name}</option>`)}
    </select>`;
}
