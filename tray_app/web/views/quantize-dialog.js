// @ts-check
/** Which quantizations to make of a model, with the size of each before anything is done. */

import { html, useEffect, useState } from '../html.js';
import { attempt, run, toast } from '../actions.js';
import { bytes, plural } from '../format.js';
import { Badge, Callout, Modal, Spinner } from '../components/ui.js';

/** @typedef {import('../types.js').Model} Model */
/** @typedef {import('../types.js').Target} Target */

const MOST = 8; // of one job, as the engine takes them

/** Why a type cannot be chosen; empty when it can. @param {Target} target @param {string | null} now */
export function against(target, now) {
  if (target.model_id) return 'in your library';
  if (target.label === now) return 'what it is now';
  return target.needs_imatrix ? 'needs an importance matrix' : '';
}

/** @param {{model: Model, onClose: () => void}} props */
export function QuantizeDialog({ model, onClose }) {
  const [found, setFound] = useState(/** @type {import('../types.js').Targets | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [chosen, setChosen] = useState(/** @type {string[]} */ ([]));
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
  /** @param {string} label */
  const toggle = (label) => setChosen(chosen.includes(label) ? chosen.filter((one) => one !== label) : [...chosen, label]);
  async function start() {
    const result = await run('quantize_model', { model_id: model.id, types: chosen }, model.id);
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
      ${found && html`<ul class="targets">${found.targets.map((t) => html`
        <${TargetRow} key=${t.label} t=${t} why=${against(t, found.quantization)} checked=${chosen.includes(t.label)}
          full=${chosen.length >= MOST} onToggle=${() => toggle(t.label)} />`)}</ul>`}
    <//>`;
}

/** @param {{t: Target, why: string, checked: boolean, full: boolean, onToggle: () => void}} props */
const TargetRow = ({ t, why, checked, full, onToggle }) => html`
  <li><label class="target" data-off=${Boolean(why)}>
    <input type="checkbox" checked=${checked} disabled=${Boolean(why) || (full && !checked)} onChange=${onToggle} />
    <span class="target-words"><span class="target-head"><b>${t.label}</b>${why && html`<${Badge}>${why}<//>`}
      <span class="muted digits offer-size">${t.size_bytes == null ? '' : bytes(t.size_bytes)}</span></span>
      <span class="muted">${t.about}${t.fallbacks ? ` ${plural(t.fallbacks, 'tensor')} of this model become another type.` : ''}</span></span>
  </label></li>`;
