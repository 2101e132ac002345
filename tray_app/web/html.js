// @ts-check
/** The rendering library in one place: Preact + htm + signals, vendored under ./vendor. */

import { h, render } from './vendor/preact.js';
import * as preactHooks from './vendor/preact-hooks.js';
import * as preactSignals from './vendor/signals.js';
import htm from './vendor/htm.js';

/**
 * @template T
 * @typedef {{value: T}} Signal
 */

/**
 * The vendored files carry no types; these are the parts this page uses.
 * @typedef {object} Hooks
 * @property {(effect: () => void | (() => void), inputs?: readonly unknown[]) => void} useEffect
 * @property {(effect: () => void | (() => void), inputs?: readonly unknown[]) => void} useLayoutEffect
 * @property {<T>(make: () => T, inputs: readonly unknown[]) => T} useMemo
 * @property {<T>(initial: T) => {current: T}} useRef
 * @property {<T>(initial: T | (() => T)) => [T, (next: T | ((old: T) => T)) => void]} useState
 *
 * @typedef {object} Signals
 * @property {<T>(value: T) => Signal<T>} signal
 * @property {<T>(compute: () => T) => {readonly value: T}} computed
 * @property {(run: () => void) => (() => void)} effect
 * @property {<T>(run: () => T) => T} batch
 */

/** @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(h);
export { render };
/** @type {Hooks} */
const hooks = /** @type {any} */ (preactHooks);
export const { useEffect, useLayoutEffect, useMemo, useRef, useState } = hooks;
/** @type {Signals} */
const signals = /** @type {any} */ (preactSignals);
export const { batch, computed, effect, signal } = signals;
