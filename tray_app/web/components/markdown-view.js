// @ts-check
/** Draws what markdown.js read. Elements only: a model's text never becomes HTML. */

import { html, useMemo } from '../html.js';
import { openUrl } from '../actions.js';
import { parse } from '../markdown.js';
import { inWindow } from '../store.js';
import { CopyButton } from './ui.js';

/** @param {{text: string}} props */
export function Markdown({ text }) {
  const blocks = useMemo(() => parse(text), [text]);
  return html`<div class="md">${blocks.map(drawBlock)}</div>`;
}

/** @param {import('../markdown.js').Block} block @param {number} key @returns {any} */
function drawBlock(block, key) {
  switch (block.type) {
    case 'heading': return html`<p key=${key} role="heading" aria-level=${block.level + 2} class="md-heading" data-level=${block.level}>
      ${block.children.map(drawInline)}</p>`;
    case 'code': return html`
      <div key=${key} class="md-code">
        <div class="md-code-head"><span class="muted">${block.language || 'code'}</span><${CopyButton} words label="Copy" text=${block.text} /></div>
        <pre tabIndex=${0}><code>${block.text}</code></pre>
      </div>`;
    case 'list': {
      const items = block.items.map((item, i) => html`<li key=${i}>${drawItem(item)}</li>`);
      return block.ordered ? html`<ol key=${key} start=${block.start}>${items}</ol>` : html`<ul key=${key}>${items}</ul>`;
    }
    case 'quote': return html`<blockquote key=${key}>${block.children.map(drawBlock)}</blockquote>`;
    case 'table': return html`
      <div key=${key} class="table-box"><table class="table">
        <thead><tr>${block.head.map((cell, i) => html`<th key=${i}>${cell.map(drawInline)}</th>`)}</tr></thead>
        <tbody>${block.rows.map((row, i) => html`<tr key=${i}>${row.map((cell, j) => html`<td key=${j}>${cell.map(drawInline)}</td>`)}</tr>`)}</tbody>
      </table></div>`;
    case 'rule': return html`<hr key=${key} />`;
    default: return html`<p key=${key}>${block.children.map(drawInline)}</p>`;
  }
}

/** A list item of one paragraph needs no paragraph around it. @param {import('../markdown.js').Block[]} item */
const drawItem = (item) => item.map((block, i) => (block.type === 'paragraph' && i === 0 ? block.children.map(drawInline) : drawBlock(block, i)));

/** @param {import('../markdown.js').Inline} node @param {number} key @returns {any} */
function drawInline(node, key) {
  switch (node.type) {
    case 'text': return node.text;
    case 'code': return html`<code key=${key}>${node.text}</code>`;
    case 'strong': return html`<strong key=${key}>${node.children.map(drawInline)}</strong>`;
    case 'em': return html`<em key=${key}>${node.children.map(drawInline)}</em>`;
    case 'del': return html`<del key=${key}>${node.children.map(drawInline)}</del>`;
    default: return html`<${Link} key=${key} node=${node} />`;
  }
}

/**
 * A link never leads this window elsewhere: its address is shown, and the app's window can hand
 * it to the system's browser.
 * @param {{node: import('../markdown.js').LinkSpan}} props
 */
function Link({ node }) {
  const only = node.children[0];
  const same = node.children.length === 1 && only.type === 'text' && only.text === node.url;
  return html`<span class="md-link">${!same && html`<span>${node.children.map(drawInline)}</span> `}<${WebAddress} url=${node.url} /></span>`;
}

/** @param {{url: string}} props */
export const WebAddress = ({ url }) => (inWindow.value && /^https?:\/\//i.test(url)
  ? html`<button type="button" class="md-url" title="Open in the browser" onClick=${() => openUrl(url)}>${url}</button>`
  : html`<span class="md-url">${url}</span>`);
