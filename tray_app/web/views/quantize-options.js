// @ts-check
/** Types to choose from, and how they are made: shared by the Convert page and the dialog. */

import { html, useEffect, useRef } from '../html.js';
import { pickFile } from '../actions.js';
import { inWindow } from '../store.js';
import { bytes, plural } from '../format.js';
import { Field, Select, Switch } from '../components/fields.js';
import { Badge } from '../components/ui.js';

/** @typedef {import('../types.js').Target} Target */
/** @typedef {import('../convert-state.js').Making} Making */

/** Why a type cannot be chosen; empty when it can. @param {Target} target @param {string | null} now @param {boolean} matrix whether there is one */
export function against(target, now, matrix = false) {
  if (target.model_id) return 'in your library';
  if (target.label === now) return 'what it is now';
  return target.needs_imatrix && !matrix ? 'needs an importance matrix' : '';
}

/**
 * @param {{targets: Target[], chosen: string[], most: number, now?: string | null, matrix: boolean, about?: boolean, onChange: (chosen: string[]) => void}} props
 */
export function Targets({ targets, chosen, most, now = null, matrix, about = true, onChange }) {
  const list = useRef(/** @type {any} */ (null));
  useEffect(() => { // what is chosen beforehand is to be seen
    const first = list.current?.querySelector('input:checked')?.closest('li');
    if (first) list.current.scrollTop = first.offsetTop - list.current.offsetTop - first.offsetHeight;
  }, []);
  return html`
  <ul class="targets" ref=${list}>${targets.map((t) => html`
    <${TargetRow} key=${t.label} t=${t} why=${against(t, now, matrix)} checked=${chosen.includes(t.label)} full=${chosen.length >= most} foreseen=${about}
      onToggle=${() => onChange(chosen.includes(t.label) ? chosen.filter((one) => one !== t.label) : [...chosen, t.label])} />`)}</ul>`;
}

/** @param {{t: Target, why: string, checked: boolean, full: boolean, foreseen: boolean, onToggle: () => void}} props */
const TargetRow = ({ t, why, checked, full, foreseen, onToggle }) => html`
  <li><label class="target" data-off=${Boolean(why)}>
    <input type="checkbox" checked=${checked && !why} disabled=${Boolean(why) || (full && !checked)} onChange=${onToggle} />
    <span class="target-words"><span class="target-head"><b>${t.label}</b>${why && html`<${Badge}>${why}<//>`}
      <span class="muted digits offer-size">${t.size_bytes == null ? '' : `${foreseen ? 'about ' : ''}${bytes(t.size_bytes)}`}</span></span>
      <span class="muted">${t.about}${t.fallbacks ? ` ${plural(t.fallbacks, 'tensor')} of this model become another type.` : ''}</span></span>
  </label></li>`;

/** @type {[string, string][]} */
const MATRICES = [['', 'None'], ['compute', 'Compute it from the text that comes along'], ['file', 'From a file…']];

/** @param {{how: Making, onChange: (more: Partial<Making>) => void}} props */
export function MakingOptions({ how, onChange }) {
  const kind = how.imatrix === '' || how.imatrix === 'compute' ? how.imatrix : 'file';
  const choose = async (/** @type {string} */ wished) => {
    if (wished !== 'file') onChange({ imatrix: wished });
    else if (inWindow.value) onChange({ imatrix: (await pickFile()) ?? how.imatrix });
    else onChange({ imatrix: '/' });
  };
  return html`
    <div class="form">
      <${Select} label="Importance matrix" value=${kind} options=${MATRICES} onChange=${choose}
        hint="Tells which weights matter: small types lose less with one. Computing it takes minutes." />
      ${kind === 'file' && html`<${Field} label="Its file, or a text to compute it from" mono value=${how.imatrix}
        onInput=${(/** @type {string} */ value) => onChange({ imatrix: value })} />`}
      <${Field} label="Other types for some tensors" mono multiline value=${how.overrides} placeholder="attn_v=q8_0, token_embd=q6_k"
        hint="A tensor’s name or pattern and a type each." onInput=${(/** @type {string} */ value) => onChange({ overrides: value })} />
      <${Switch} label="Compare the perplexity" checked=${how.measure} onChange=${(/** @type {boolean} */ on) => onChange({ measure: on })}
        hint="How much worse each is than what it is made of, on a short text." />
    </div>`;
}
