// @ts-check
/** One line of the library. Its height never changes, whatever its state. */

import { html, useState } from '../html.js';
import { loadModel, pending, pinModel, unloadModel, useModel } from '../actions.js';
import { activeId, settings, statusOf } from '../store.js';
import { bytes, contextShort, DASH, integer, kindHint, parameters, quantizationHint } from '../format.js';
import { AskSwitchNow, AskUnloadNow, ModelStateText } from '../components/model-state.js';
import { Badge, IconButton, Words } from '../components/ui.js';

/** @typedef {import('../types.js').Model} Model */

/** States in which a model holds memory. */
export const HOLDS = new Set(['loading', 'ready', 'backoff']);

/** @param {{model: Model}} props */
export const Badges = ({ model }) => html`
  ${model.kind === 'embedding' && html`<${Badge} tone="info" title=${kindHint('embedding')}>embedding</${Badge}>`}
  ${model.kind === 'completion' && html`<${Badge} title=${kindHint('completion')}>completion</${Badge}>`}
  ${model.kind === 'chat' && html`<${Badge} title=${kindHint('chat')}>chat</${Badge}>`}
  ${model.mmproj_path && html`<${Badge} tone="accent" title="Reads images: a projector file lies beside it.">vision</${Badge}>`}`;

/** @param {{model: Model, open: boolean}} props `open`: the details beside the list tell the whole reason */
function SubLine({ model, open }) {
  const { error, state } = statusOf(model.id);
  if (error && (state === 'failed' || state === 'backoff')) {
    const text = [error.message, error.remedy].filter(Boolean).join(' ');
    if (open) {
      return html`<span class="m-sub m-error is-short" title=${text}>${state === 'failed' && html`<span class="m-failed">Failed: </span>`}${error.message}</span>`;
    }
    return html`<span class="m-sub m-error" title=${text}><${Words} text=${text} /></span>`;
  }
  if (!model.available) {
    return html`<span class="m-sub" title=${model.path}>The drive or folder is missing: ${model.folder}</span>`;
  }
  const facts = [
    parameters(model),
    model.quantization,
    bytes(model.size_bytes),
    model.context_length != null && `${contextShort(model.context_length)} context`,
  ].filter((fact) => fact && fact !== DASH);
  return html`
    <span class="m-sub"><span class="m-publisher">${model.publisher ?? 'Unknown publisher'}<span class="m-facts"> · </span></span>
      <span class="m-facts digits">${facts.join(' · ')}</span></span>`;
}

/**
 * @param {{model: Model, tabIndex: number, open: boolean, onOpen: () => void, onFocus: () => void}} props
 */
export function ModelRow({ model, tabIndex, open, onOpen, onFocus }) {
  const [asking, setAsking] = useState(/** @type {'' | 'switch' | 'unload'} */ (''));
  const status = statusOf(model.id);
  const active = activeId.value === model.id;
  const pinned = Boolean(settings.value.models?.[model.id]?.pinned);
  const holds = HOLDS.has(status.state);
  /** @param {any} event */
  const click = (event) => { if (!event.target.closest('button, dialog')) onOpen(); };
  return html`
    <div class="model-row" id=${`row:${model.id}`} role="listitem" tabIndex=${tabIndex} data-active=${active}
      data-off=${!model.available} data-open=${open} data-state=${status.state} aria-current=${active ? 'true' : undefined}
      onClick=${click} onFocus=${onFocus}>
      <button type="button" class="radio" role="radio" aria-checked=${active} tabIndex=${-1} disabled=${!model.available}
        aria-label=${`Use ${model.name}`} title=${active ? 'In use: "default" goes here' : 'Use this model'}
        onClick=${() => { if (!active) useModel(model.id); }}></button>
      <div class="m-name">
        <div class="m-line"><span class="m-title" title=${model.name}>${model.name}</span><${Badges} model=${model} /></div>
        <${SubLine} model=${model} open=${open} />
      </div>
      <span class="m-params digits">${parameters(model)}</span>
      <span class="m-quant" title=${quantizationHint(model.quantization)}>${model.quantization ?? DASH}</span>
      <span class="m-size digits">${bytes(model.size_bytes)}</span>
      <span class="m-ctx digits" title=${`${integer(model.context_length)} tokens`}>${contextShort(model.context_length)}</span>
      <div class="m-state"><${ModelStateText} model=${model} idle=${active ? 'Loads when asked' : ''} /></div>
      <div class="m-actions">
        <${IconButton} icon="pin" class=${pinned ? 'm-pin is-pinned' : 'm-pin'} pressed=${pinned} tabIndex=${tabIndex}
          label=${pinned ? `Unpin ${model.name}: it may leave memory` : `Pin ${model.name}: keep it in memory`}
          onClick=${() => pinModel(model.id, !pinned)} />
        <${IconButton} icon="eject" class=${holds ? 'm-eject' : 'm-eject is-hidden'} disabled=${!holds} tabIndex=${holds ? tabIndex : -1}
          label=${`Unload ${model.name} from memory`}
          onClick=${() => (status.in_flight ? setAsking('unload') : unloadModel(model.id))} />
        <${MainButton} model=${model} active=${active} tabIndex=${tabIndex} onAsk=${() => setAsking('switch')} />
        <${IconButton} icon="right" label=${`Details of ${model.name}`} tabIndex=${tabIndex} onClick=${onOpen} />
      </div>
      ${asking === 'switch' && html`
        <${AskSwitchNow} model=${model} onClose=${() => setAsking('')} onYes=${() => useModel(model.id, true)} />`}
      ${asking === 'unload' && html`
        <${AskUnloadNow} model=${model} onClose=${() => setAsking('')} onYes=${() => unloadModel(model.id, true)} />`}
    </div>`;
}

/** The one action that fits the state. @param {{model: Model, active: boolean, tabIndex: number, onAsk: () => void}} props */
function MainButton({ model, active, tabIndex, onAsk }) {
  const { state } = statusOf(model.id);
  const busy = pending.value.has(`switch_model:${model.id}`) || pending.value.has(`load_model:${model.id}`);
  if (state === 'waiting') return html`<button type="button" class="button small m-use" tabIndex=${tabIndex} onClick=${onAsk}>Now…</button>`;
  if (state === 'failed') {
    return html`<button type="button" class="button small m-use" tabIndex=${tabIndex} disabled=${busy}
      onClick=${() => (active ? loadModel(model.id) : useModel(model.id))}>Try again</button>`;
  }
  if (active) return html`<span class="m-use in-use">In use</span>`;
  return html`<button type="button" class="button small m-use" tabIndex=${tabIndex} disabled=${busy || !model.available}
    aria-label=${`Use ${model.name}`} onClick=${() => useModel(model.id)}>Use</button>`;
}
