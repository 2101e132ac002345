// @ts-check
/** Which quantizations to make of a model, with the size of each before anything is done. */

import { html, useEffect, useState } from '../html.js';
import { attempt, run, toast } from '../actions.js';
import { bytes, plural } from '../format.js';
import { makingArgs, MOST_TYPES, PLAIN } from '../convert-state.js';
import { Callout, Modal, Spinner } from '../components/ui.js';
import { MakingOptions, Targets } from './quantize-options.js';

/** @typedef {import('../types.js').Model} Model */
/** @typedef {import('../convert-state.js').Making} Making */

/** @param {{model: Model, onClose: () => void}} props */
export function QuantizeDialog({ model, onClose }) {
  const [found, setFound] = useState(/** @type {import('../types.js').Targets | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [chosen, setChosen] = useState(/** @type {string[]} */ ([]));
  const [how, setHow] = useState(PLAIN);
  useEffect(() => {
    let gone = false;
    attempt('quantize_targets', { model_id: model.id }, model.id).then((r) => {
      if (gone) return;
      if (r.ok) setFound(r.value);
      else setError(r.error);
    });
    return () => { gone = true; };
  }, [model.id]);
  const needed = (found?.targets ?? []).filter((t) => chosen.includes(t.label)).reduce((sum, t) => sum + (t.size_bytes ?? 0), 0);
  const short = found !== null && needed > found.free_bytes;
  async function start() {
    const result = await run('quantize_model', { model_id: model.id, types: chosen, ...makingArgs(how) }, model.id);
    if (!result.ok) return;
    toast('ok', 'It goes on in the background; each is loaded and asked before it is listed.');
    onClose();
  }
  return html`
    <${Modal} title=${`Quantize ${model.name}`} onClose=${onClose} actions=${html`
      <span class="muted digits quantize-sum">${chosen.length ? `${plural(chosen.length, 'file')}, ${bytes(needed)}` : ''}</span>
      <button type="button" class="button quiet" onClick=${onClose}>Not now</button>
      <button type="button" class="button primary" disabled=${!chosen.length || short} onClick=${start}>Start</button>`}>
      ${error && html`<${Callout} message=${error.message} remedy=${error.remedy} />`}
      ${!found && !error && html`<p class="muted state-line"><${Spinner} /> Working out the sizes…</p>`}
      ${found?.warning && html`<${Callout} tone="warn" message=${found.warning} />`}
      ${short && html`<${Callout} message=${`${bytes(needed)} are needed and ${bytes(found?.free_bytes)} are free.`} />`}
      ${found && html`<${Targets} targets=${found.targets} chosen=${chosen} most=${MOST_TYPES} now=${found.quantization} matrix=${Boolean(how.imatrix)}
          about=${false} onChange=${setChosen} />
        <details class="more"><summary>More</summary>
          <${MakingOptions} how=${how} onChange=${(/** @type {Partial<Making>} */ more) => setHow({ ...how, ...more })} /></details>`}
    <//>`;
}
