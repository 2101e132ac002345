// @ts-check
/** What a model is doing, alive; and the question before "now" cuts answers short. */

import { html } from '../html.js';
import { loadingSince, nameOf, now, statuses, statusOf } from '../store.js';
import { plural, statusView } from '../format.js';
import { Dot, Elapsed, Modal, Spinner } from './ui.js';

/** @typedef {import('../types.js').Model} Model */

/** @param {{model: Model, idle?: string}} props `idle`: words for a model that is not loaded */
export function ModelStateText({ model, idle = '' }) {
  const status = statusOf(model.id);
  const view = statusView(model, status, status.state === 'backoff' ? now.value : 0);
  const text = view.text || idle;
  if (!text) return null;
  return html`
    <span class="state-text" data-tone=${view.tone}>
      ${view.tone === 'busy' ? html`<${Spinner} />` : html`<${Dot} tone=${view.tone} />`}
      <span class="state-words">${text}</span>
      ${status.state === 'loading' && html`<${Elapsed} since=${loadingSince.get(model.id)} />`}
    </span>`;
}

/** Models that answer requests right now, other than `id`. @param {string} id */
const answering = (id) => statuses.value.filter((s) => s.in_flight > 0 && s.model_id !== id);

/**
 * @param {{title: string, sure: string, cut: {model_id: string, in_flight: number}[], onYes: () => void, onClose: () => void}} props
 */
const AskCut = ({ title, sure, cut, onYes, onClose }) => html`
  <${Modal} title=${title} onClose=${onClose} actions=${html`
    <button type="button" class="button quiet" onClick=${onClose}>Keep waiting</button>
    <button type="button" class="button danger" onClick=${() => { onClose(); onYes(); }}>${sure}</button>`}>
    <p>This cuts off answers that are being written now:</p>
    <ul>${cut.map((s) => html`<li key=${s.model_id}>${plural(s.in_flight, 'request')} on ${nameOf(s.model_id)}</li>`)}</ul>
  <//>`;

/** @param {{model: Model, onYes: () => void, onClose: () => void}} props */
export const AskSwitchNow = ({ model, onYes, onClose }) => html`
  <${AskCut} title=${`Switch to ${model.name} now?`} sure="Switch now" cut=${answering(model.id)} onYes=${onYes} onClose=${onClose} />`;

/** @param {{model: Model, onYes: () => void, onClose: () => void}} props */
export const AskUnloadNow = ({ model, onYes, onClose }) => html`
  <${AskCut} title=${`Unload ${model.name} now?`} sure="Unload now" cut=${[statusOf(model.id)]} onYes=${onYes} onClose=${onClose} />`;
