// @ts-check
/** A small chart of bars, drawn as elements. */

import { html } from '../html.js';
import { heights } from '../usage-words.js';

const HEIGHT = 24;
const STEP = 4; // 3 for a bar, 1 between two

/**
 * @param {{bars: import('../usage-words.js').Bar[], label: string}} props `label`: what it shows, in words
 */
export const BarChart = ({ bars, label }) => {
  const width = bars.length * STEP - 1;
  return html`
    <svg class="bar-chart" role="img" aria-label=${label} viewBox=${`0 0 ${width} ${HEIGHT}`} preserveAspectRatio="none">
      <line class="bar-base" x1="0" x2=${width} y1=${HEIGHT - 0.5} y2=${HEIGHT - 0.5} />
      ${heights(bars).map((part, i) => html`
        <g key=${i}><title>${bars[i].title}</title>
          <rect class="bar-room" x=${i * STEP} y="0" width=${STEP} height=${HEIGHT} />
          ${part > 0 && html`<rect class="bar" x=${i * STEP} y=${HEIGHT * (1 - part)} width=${STEP - 1} height=${HEIGHT * part} />`}</g>`)}
    </svg>`;
};
