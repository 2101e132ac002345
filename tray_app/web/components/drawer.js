// @ts-check
/** A panel at the right edge: beside the page when there is room, above it when there is not. */

import { html, useLayoutEffect, useRef } from '../html.js';
import { IconButton } from './ui.js';

/** @param {{title: string, sub?: any, onClose: () => void, children?: any}} props */
export function Drawer({ title, sub, onClose, children }) {
  const head = useRef(/** @type {any} */ (null));
  useLayoutEffect(() => { head.current.focus({ preventScroll: true }); }, []);
  useLayoutEffect(() => {
    /** @param {KeyboardEvent} event */
    const onKey = (event) => {
      if (event.key === 'Escape' && !event.defaultPrevented && !document.querySelector('dialog[open]')) onClose();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, [onClose]);
  return html`
    <aside class="drawer" aria-label=${title}>
      <header class="drawer-head">
        <div><h2 ref=${head} tabIndex=${-1}>${title}</h2>${sub}</div>
        <${IconButton} icon="close" label="Close (Esc)" onClick=${onClose} />
      </header>
      <div class="drawer-body">${children}</div>
    </aside>`;
}
