// @ts-check
/**
 * Which page is open: `#/models`, `#/discover`, … A reference behind it (`#/discover?reference=…`) is
 * what the page asks about once; it is taken out of the address, so that a reload does not ask again.
 */

import { signal } from './html.js';

export const PAGES = /** @type {const} */ (['models', 'discover', 'downloads', 'convert', 'server', 'connect', 'runtimes', 'chat', 'settings']);
/** @typedef {typeof PAGES[number]} Page */

/** @param {string} hash @returns {Page} */
export function pageOf(hash) {
  const name = hash.replace(/^#\/?/, '').split(/[/?]/)[0];
  return /** @type {Page} */ (PAGES.includes(/** @type {Page} */ (name)) ? name : 'models');
}

/** @param {string} hash @returns {string} the reference in it, or nothing */
export function referenceOf(hash) {
  const query = hash.split('?').slice(1).join('?');
  return new URLSearchParams(query).get('reference') ?? '';
}

export const page = signal(pageOf(globalThis.location?.hash ?? ''));

/** @param {string} name @param {string} [reference] of a model to ask about there */
export function go(name, reference = '') {
  location.hash = `#/${pageOf(name)}${reference ? `?reference=${encodeURIComponent(reference)}` : ''}`;
}

/** @param {(reference: string, page: Page) => void} ask */
export function listen(ask) {
  const look = () => {
    const reference = referenceOf(location.hash);
    page.value = pageOf(location.hash);
    if (!reference) return;
    history.replaceState(null, '', `#/${page.value}`);
    ask(reference, page.value);
  };
  addEventListener('hashchange', look);
  look();
}
