// @ts-check
/** A list that draws only the rows in view, so that 1,000 models cost as much as twenty. */

import { html, useLayoutEffect, useRef, useState } from '../html.js';

const OVERSCAN = 6;

/**
 * @param {number} scrollTop px
 * @param {number} height px of the view
 * @param {number} rowHeight px
 * @param {number} count
 * @returns {[number, number]} first row to draw and the one after the last
 */
export function visibleRange(scrollTop, height, rowHeight, count) {
  const first = Math.max(0, Math.floor(scrollTop / rowHeight) - OVERSCAN);
  const last = Math.min(count, Math.ceil((scrollTop + height) / rowHeight) + OVERSCAN);
  return [Math.min(first, count), last];
}

/**
 * The box scrolls; a row that has the focus is kept even when it scrolls out of view.
 * @param {object} props
 * @param {any[]} props.items
 * @param {number} props.rowHeight px, the same for every row
 * @param {(item: any) => string | number} props.keyOf
 * @param {(item: any, index: number) => any} props.row
 * @param {number} [props.keep] index that is always drawn
 * @param {any} [props.boxRef]
 * @param {string} [props.class]
 * @param {Record<string, any>} [props.box] further attributes of the scrolling element
 * @param {Record<string, any>} [props.inner] attributes of the element that holds the rows
 */
export function VirtualList({ items, rowHeight, keyOf, row, keep = -1, boxRef, class: extra = '', box = {}, inner = {} }) {
  const own = useRef(/** @type {any} */ (null));
  const ref = boxRef ?? own;
  const [range, setRange] = useState(/** @type {[number, number]} */ ([0, 20]));
  const measure = () => {
    const { scrollTop, clientHeight } = ref.current;
    const next = visibleRange(scrollTop, clientHeight, rowHeight, items.length);
    setRange((old) => (old[0] === next[0] && old[1] === next[1] ? old : next));
  };
  const latest = useRef(measure);
  latest.current = measure;
  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => latest.current());
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  useLayoutEffect(measure, [items.length, rowHeight]);

  const [first, last] = range;
  const shown = [];
  for (let i = first; i < Math.min(last, items.length); i += 1) shown.push(i);
  if (keep >= 0 && keep < items.length && (keep < first || keep >= last)) shown.push(keep);
  const { onScroll, ...rest } = box;
  return html`
    <div ref=${ref} class=${`virtual ${extra}`} ...${rest}
      onScroll=${(/** @type {Event} */ event) => { measure(); onScroll?.(event); }}>
      <div ...${inner} class="virtual-inner" style=${{ ...inner.style, height: `${items.length * rowHeight}px` }}>
        ${shown.map((index) => html`
          <div key=${keyOf(items[index])} class="virtual-row" role="presentation"
            style=${{ height: `${rowHeight}px`, transform: `translateY(${index * rowHeight}px)` }}>
            ${row(items[index], index)}
          </div>`)}
      </div>
    </div>`;
}
