// @ts-check
/** Small parts every page uses. */

import { html, useEffect, useRef, useState } from '../html.js';
import { copy } from '../actions.js';
import { now } from '../store.js';
import { ago, clock } from '../format.js';
import { Icon } from './icons.js';

/**
 * A button with an icon and no words; `label` is its name and its tooltip.
 * @param {{icon: import('./icons.js').IconName, label: string, onClick: (event: any) => void,
 *   disabled?: boolean, pressed?: boolean, class?: string, tabIndex?: number}} props
 */
export const IconButton = ({ icon, label, onClick, disabled, pressed, class: extra = '', tabIndex }) => html`
  <button type="button" class=${`icon-button ${extra}`} aria-label=${label} title=${label} disabled=${disabled}
    aria-pressed=${pressed} tabIndex=${tabIndex} onClick=${onClick}><${Icon} name=${icon} /></button>`;

/**
 * Copies `text`; says so for a moment without moving anything.
 * @param {{text: string | (() => string), label?: string, words?: boolean}} props
 */
export function CopyButton({ text, label = 'Copy', words = false }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 1600);
    return () => clearTimeout(timer);
  }, [done]);
  const press = async () => setDone(await copy(typeof text === 'function' ? text() : text));
  const said = done ? 'Copied' : label;
  return html`
    <button type="button" class=${words ? 'button small quiet' : 'icon-button'} title=${said} aria-label=${said}
      data-done=${done} onClick=${press}>
      <${Icon} name=${done ? 'check' : 'copy'} />${words && html`<span>${done ? 'Copied' : label}</span>`}
    </button>`;
}

/** @param {{tone?: string, title?: string, children?: any}} props */
export const Badge = ({ tone = 'plain', title, children }) => html`
  <span class="badge" data-tone=${tone} title=${title}>${children}</span>`;

/** @param {{tone: string}} props */
export const Dot = ({ tone }) => html`<span class="dot" data-tone=${tone} aria-hidden="true"></span>`;

export const Spinner = () => html`<span class="spinner" aria-hidden="true"></span>`;

/** A clock that counts up; only its text moves. @param {{since: number | undefined}} props */
export const Elapsed = ({ since }) => html`
  <span class="digits">${since === undefined ? '' : clock(now.value - since)}</span>`;

/** @param {{at: number | null | undefined}} props Unix seconds */
export const Ago = ({ at }) => html`<span>${ago(at, now.value)}</span>`;

/** Text in which an argument such as --ctx-size is not broken at its hyphens. @param {{text: string}} props */
export const Words = ({ text }) => String(text ?? '').split(/(?<!\S)(["'`(]?-\S+)/)
  .map((part, i) => (i % 2 ? html`<span key=${i} class="arg">${part}</span>` : part));

/**
 * What went wrong and what helps, where it went wrong.
 * @param {{message: string, remedy?: string, tone?: 'bad' | 'warn' | 'info', children?: any}} props
 */
export const Callout = ({ message, remedy, tone = 'bad', children }) => html`
  <div class="callout" data-tone=${tone} role=${tone === 'bad' ? 'alert' : 'status'}>
    <${Icon} name=${tone === 'info' ? 'info' : 'warning'} />
    <div class="callout-text"><p><${Words} text=${message} /></p>
      ${remedy && html`<p class="muted"><${Words} text=${remedy} /></p>`}</div>
    ${children && html`<div class="callout-actions">${children}</div>`}
  </div>`;

/** @param {{title: string, sub?: any, children?: any}} props */
export const PageHead = ({ title, sub, children }) => html`
  <header class="page-head">
    <div class="page-title"><h1 tabIndex=${-1}>${title}</h1>${sub && html`<p class="muted">${sub}</p>`}</div>
    <div class="page-actions">${children}</div>
  </header>`;

/** @param {{title: string, actions?: any, class?: string, children?: any}} props */
export const Card = ({ title, actions, class: extra = '', children }) => html`
  <section class=${`card ${extra}`} aria-label=${title}>
    <div class="card-head"><h2>${title}</h2><div class="card-actions">${actions}</div></div>
    ${children}
  </section>`;

/**
 * @param {{text: string, label: string, copyText?: string, wrap?: boolean}} props `wrap`: one long line, not lines to keep
 */
export const CodeBlock = ({ text, label, copyText, wrap }) => html`
  <div class="code-block">
    <pre tabIndex=${0} aria-label=${label} data-wrap=${wrap}><code>${wrap ? html`<${Words} text=${text} />` : text}</code></pre>
    <${CopyButton} text=${copyText ?? text} label=${`Copy ${label}`} />
  </div>`;

/**
 * @param {{value: number | null, max?: number | null, label: string}} props a bar; null: not known
 */
export const Progress = ({ value, max = 1, label }) => html`
  <progress aria-label=${label} max=${max || 1} value=${max == null ? undefined : value ?? undefined}></progress>`;

/**
 * A modal dialog on the native element: focus stays inside, Esc closes.
 * @param {{title: string, onClose: () => void, children?: any, actions?: any}} props
 */
export function Modal({ title, onClose, children, actions }) {
  const ref = useRef(/** @type {any} */ (null));
  useEffect(() => {
    ref.current.showModal();
    return () => ref.current?.close();
  }, []);
  return html`
    <dialog ref=${ref} class="modal" aria-label=${title} onClose=${onClose}
      onCancel=${(/** @type {Event} */ event) => { event.preventDefault(); onClose(); }}>
      <h2>${title}</h2>
      <div class="modal-body">${children}</div>
      <div class="modal-actions">${actions}</div>
    </dialog>`;
}
