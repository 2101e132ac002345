// @ts-check
/** Which page is open: `#/models`, `#/server`, `#/runtimes`, `#/chat`, `#/settings`. */

import { signal } from './html.js';

export const PAGES = /** @type {const} */ (['models', 'server', 'runtimes', 'chat', 'settings']);
/** @typedef {typeof PAGES[number]} Page */

/** @param {string} hash @returns {Page} */
export function pageOf(hash) {
  const name = hash.replace(/^#\/?/, '').split(/[/?]/)[0];
  return /** @type {Page} */ (PAGES.includes(/** @type {Page} */ (name)) ? name : 'models');
}

export const page = signal(pageOf(globalThis.location?.hash ?? ''));

/** @param {string} name */
export function go(name) {
  location.hash = `#/${pageOf(name)}`;
}

export function listen() {
  addEventListener('hashchange', () => {
    page.value = pageOf(location.hash);
  });
}
