// @ts-check
/** A QR code as a picture, drawn from rows of "1" (dark) and "0". Always dark on light: scanners want that. */

import { html } from '../html.js';

const QUIET = 4; // modules of margin that the standard asks for (ISO/IEC 18004, 6.3.8)

/** One path of horizontal strokes. @param {string[]} rows @returns {string} */
export const pathOf = (rows) => rows.flatMap((row, y) => [...row.matchAll(/1+/g)]
  .map((run) => `M${run.index + QUIET} ${y + QUIET + 0.5}h${run[0].length}`)).join('');

/** @param {{rows: string[], label: string}} props */
export function QrCode({ rows, label }) {
  const size = rows.length + 2 * QUIET;
  return html`
    <svg class="qr-code" viewBox=${`0 0 ${size} ${size}`} role="img" aria-label=${label} shape-rendering="crispEdges">
      <rect width=${size} height=${size} fill="#fff" /><path d=${pathOf(rows)} stroke="#000" fill="none" />
    </svg>`;
}
