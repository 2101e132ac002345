// @ts-check
/** What was found, what can be made of it, and what that takes. */

import { html } from '../html.js';
import { pending } from '../actions.js';
import { bytes, integer, parameters } from '../format.js';
import { against, choose, MOST_TYPES, putAway, room, start, stepsOf, wish, wishes } from '../convert-state.js';
import { Field, Select, Switch } from '../components/fields.js';
import { Callout, Card } from '../components/ui.js';
import { WebAddress } from '../components/markdown-view.js';
import { MakingOptions, Targets } from './quantize-options.js';

/** @typedef {import('../types.js').ConvertPlan} ConvertPlan */

/** @type {[string, string][]} */
const OUTPUTS = [
  ['auto', 'As the original has it (16 bits)'], ['f16', 'F16'], ['bf16', 'BF16'], ['f32', 'F32: twice the size'], ['q8_0', 'Q8_0: half the size'],
];

/** @param {{p: ConvertPlan}} props */
export function PlanCard({ p }) {
  return html`
    <${Card} title=${p.name} class="plan-card" actions=${html`<button type="button" class="button small quiet" onClick=${putAway}>Put away</button>`}>
      <p>${p.problem ? '' : p.title}</p>
      ${p.problem && html`<${Callout} message=${p.problem} remedy=${p.remedy} />`}
      <${Facts} p=${p} />
      ${p.warnings.map((text) => html`<${Callout} key=${text} tone="warn" message=${text} />`)}
      ${p.unfinished && html`<${Callout} tone="info" message="A conversion of this is unfinished." remedy="Starting goes on with what it has done." />`}
      ${!p.problem && html`<${Choices} p=${p} /><${Summary} p=${p} />`}
    <//>`;
}

/** @param {{p: ConvertPlan}} props */
function Facts({ p }) {
  const rows = [
    ['Architecture', p.architecture],
    ['Weights', p.parameters && parameters({ parameter_count: p.parameters, size_label: null })],
    ['Size', bytes(p.original_bytes)],
    ['Context', p.context_length && `${integer(p.context_length)} tokens`],
    ['Tokenizer', p.tokenizer],
    ['Chat template', p.has_chat_template == null ? null : p.has_chat_template ? 'yes' : 'no'],
    ['Pictures', p.vision ? 'it sees them' : null],
    ['License', p.license],
  ].filter(([, value]) => value);
  return html`
    <dl class="facts digits">
      ${rows.map(([name, value]) => html`<div key=${name} class="fact"><dt>${name}</dt><dd>${value}</dd></div>`)}
      ${p.page && html`<div class="fact"><dt>From</dt><dd><${WebAddress} url=${p.page} /></dd></div>`}
    </dl>`;
}

/** @param {{p: ConvertPlan}} props */
function Choices({ p }) {
  const w = wishes.value;
  if (p.lora) {
    return html`<div class="form"><${Name} /><${Field} label="Base model" mono value=${w.base} placeholder="org/repo or /path/to/folder"
      hint="Its configuration is needed, not its weights." onInput=${(/** @type {string} */ base) => wish({ base })} /></div>`;
  }
  return html`
    <h3>Quantize to</h3>
    <${Targets} targets=${p.targets} chosen=${w.types} most=${MOST_TYPES} matrix=${Boolean(w.imatrix)} onChange=${(/** @type {string[]} */ types) => wish({ types })} />
    <div class="form">
      <${Name} />
      <${Switch} label="Keep the unquantized GGUF" checked=${w.keepFull || !w.types.length} disabled=${!w.types.length}
        onChange=${(/** @type {boolean} */ keepFull) => wish({ keepFull })} hint="For making other quantizations later without converting again." />
      ${p.place === 'hub' && html`<${Switch} label="Keep the original weights" checked=${w.keepOriginals}
        onChange=${(/** @type {boolean} */ keepOriginals) => wish({ keepOriginals })} hint=${`${bytes(p.download_bytes)} in the models folder.`} />`}
    </div>
    <details class="more"><summary>More</summary>
      <div class="form"><${Select} label="Unquantized as" value=${w.output} options=${OUTPUTS} onChange=${choose} /></div>
      <${MakingOptions} how=${w} onChange=${wish} />
    </details>`;
}

const Name = () => html`<${Field} label="Name of the result" value=${wishes.value.name} onInput=${(/** @type {string} */ name) => wish({ name })} />`;

/** @param {{p: ConvertPlan}} props */
function Summary({ p }) {
  const w = wishes.value;
  const why = against(p, w);
  const { most, stays } = room(p, w);
  const time = p.quantize_s_per_gb && p.full_bytes ? (p.quantize_s_per_gb * p.full_bytes / 1e9) * w.types.length + (p.convert_s ?? 0) : null;
  return html`
    <h3>What happens</h3>
    <ol class="plan-steps">${stepsOf(p, w).map((step) => html`<li key=${step.words}>${step.words}</li>`)}</ol>
    <div class="plan-end">
      <p class="muted digits">Up to ${bytes(most)} of ${bytes(p.free_bytes)} free; ${bytes(stays)} stay.${time ? ` About ${Math.max(1, Math.round(time / 60))} min.` : ''}</p>
      ${why && html`<p class="field-error" role="alert">${why}</p>`}
      <button type="button" class="button primary" disabled=${Boolean(why) || pending.value.has(`convert_model:${p.source}`)} onClick=${start}>Start</button>
    </div>`;
}
