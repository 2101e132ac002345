// @ts-check
/** What a model in memory holds: a bar for each slot, moving only while it answers. */

import { html, useEffect, useRef, useState } from '../html.js';
import { attempt } from '../actions.js';
import { slotsView } from '../usage-words.js';

const APART_MS = 2000;

/**
 * Asked at once, after each use, and every two seconds while the model answers and the page is seen.
 * @param {import('../types.js').ModelStatus} status
 */
function useSlots(status) {
  const [slots, setSlots] = useState(/** @type {import('../types.js').Slot[]} */ ([]));
  const askedAt = useRef(0);
  const { model_id: id, state, pid, last_used_at: usedAt } = status;
  const up = state === 'ready';
  const busy = status.in_flight > 0;
  useEffect(() => setSlots([]), [id, pid]); // another process holds nothing of it
  useEffect(() => {
    if (!up) return undefined;
    let gone = false;
    let timer = /** @type {any} */ (0);
    const ask = async () => {
      if (!document.hidden) {
        askedAt.current = Date.now();
        const result = await attempt('slots', { model_id: id }, id);
        if (gone) return;
        // No answer in time: a long prompt keeps it from telling, and what was told stands.
        if (result.ok && result.value.length) setSlots(result.value);
      }
      if (busy) timer = setTimeout(ask, APART_MS);
    };
    timer = setTimeout(ask, Math.max(0, askedAt.current + APART_MS - Date.now()));
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [id, pid, up, busy, usedAt]);
  return up ? slots : [];
}

/** @param {{status: import('../types.js').ModelStatus}} props */
export function Slots({ status }) {
  const view = slotsView(useSlots(status));
  if (!view) return null;
  return html`
    <span class="slots digits"><span class="slot-bars">${view.bars.map((bar) => html`
        <span key=${bar.id} class="slot" role="img" aria-label=${bar.label} title=${bar.label} data-busy=${bar.busy}>
          <span style=${{ width: `${bar.part * 100}%` }}></span></span>`)}</span>
      <span class="muted">${view.text}</span></span>`;
}
