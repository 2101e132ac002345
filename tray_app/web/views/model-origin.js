// @ts-check
/** Where a downloaded model is from, and deleting its files. */

import { html, useEffect, useState } from '../html.js';
import { attempt, run, toast } from '../actions.js';
import { folders, statusOf } from '../store.js';
import { bytes, day } from '../format.js';
import { WebAddress } from '../components/markdown-view.js';
import { Modal } from '../components/ui.js';

/** @typedef {import('../types.js').Model} Model */

/** @param {{model: Model}} props */
export function OriginOf({ model }) {
  const [origin, setOrigin] = useState(/** @type {Record<string, any> | null} */ (null));
  const ours = folders.value.some((f) => f.is_home && f.path === model.folder);
  useEffect(() => {
    let gone = false;
    attempt('model_origin', { model_id: model.id }, model.id).then((r) => { if (!gone && r.ok) setOrigin(r.value); });
    return () => { gone = true; };
  }, [model.id]);
  const [quality, setQuality] = useState(/** @type {import('../types.js').Quality | null} */ (null));
  useEffect(() => {
    let gone = false;
    attempt('model_quality', { model_id: model.id }, model.id).then((r) => { if (!gone && r.ok) setQuality(r.value); });
    return () => { gone = true; };
  }, [model.id]);
  if (!origin && !ours) return null;
  return html`
    ${quality && html`<${QualityOf} q=${quality} label=${model.quantization ?? 'this'} />`}
    ${origin && html`<dl class="facts digits">
      ${typeof origin.page === 'string' && html`<div class="fact"><dt>From</dt><dd><${WebAddress} url=${origin.page} /></dd></div>`}
      ${!origin.page && typeof origin.reference === 'string' && html`<div class="fact"><dt>From</dt><dd class="wrap">${origin.reference}</dd></div>`}
      ${typeof origin.license === 'string' && html`<div class="fact"><dt>License</dt><dd>${origin.license}</dd></div>`}
      ${typeof origin.revision === 'string' && html`<div class="fact"><dt>Version</dt><dd><code class="mono">${origin.revision.slice(0, 12)}</code></dd></div>`}
      ${typeof origin.made_from === 'string' && html`<div class="fact"><dt>Quantized from</dt><dd class="wrap">${origin.made_from}</dd></div>`}
      ${typeof origin.imatrix === 'string' && html`<div class="fact"><dt>Importance matrix</dt><dd class="wrap">${origin.imatrix}</dd></div>`}
      ${typeof origin.overrides === 'string' && html`<div class="fact"><dt>Tensors of other types</dt><dd class="wrap mono">${origin.overrides}</dd></div>`}
      ${typeof origin.at === 'number' && html`<div class="fact"><dt>${origin.made_from || origin.converted ? 'Made' : 'Downloaded'}</dt><dd>${day(origin.at)}</dd></div>`}
    </dl>`}
    ${ours && model.available && html`<${Delete} model=${model} />`}`;
}

/** Longer is worse: how many words it hesitates between. @param {{q: import('../types.js').Quality, label: string}} props */
function QualityOf({ q, label }) {
  const most = Math.max(q.perplexity, q.reference_perplexity);
  const width = (/** @type {number} */ value) => ({ style: { width: `${(100 * value) / most}%` } });
  return html`
    <div class="quality"><p>${q.sentence}</p>
      <div class="quality-bars digits" aria-hidden="true">
        <span class="muted">${q.reference}</span><span ...${width(q.reference_perplexity)}></span>
        <span class="muted">${label}</span><span ...${width(q.perplexity)}></span></div></div>`;
}

const IDLE = new Set(['unloaded', 'failed']);

/** @param {{model: Model}} props */
function Delete({ model }) {
  const [asking, setAsking] = useState(false);
  const inMemory = !IDLE.has(statusOf(model.id).state);
  async function act() {
    setAsking(false);
    const result = await run('delete_model', { model_id: model.id }, model.id);
    if (result.ok) toast('ok', `Deleted ${model.name}; ${bytes(result.value?.freed_bytes)} are free again.`);
  }
  return html`
    <div class="row-actions"><button type="button" class="button small quiet" disabled=${inMemory}
      title=${inMemory ? 'Unload it first' : undefined} onClick=${() => setAsking(true)}>Delete from this computer…</button></div>
    ${asking && html`<${Modal} title=${`Delete ${model.name}?`} onClose=${() => setAsking(false)} actions=${html`
      <button type="button" class="button quiet" onClick=${() => setAsking(false)}>Keep it</button>
      <button type="button" class="button danger" onClick=${act}>Delete ${bytes(model.size_bytes)}</button>`}>
      <p>Its files leave the disk for good. It can be downloaded again where it came from.</p>
      <p class="muted wrap">${model.path}</p>
    <//>`}`;
}
