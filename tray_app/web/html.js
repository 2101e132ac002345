// @ts-check
/** The rendering library in one place: Preact + htm + signals, vendored under ./vendor. */

import { h, render, Fragment } from './vendor/preact.js';
import htm from './vendor/htm.js';

export const html = htm.bind(h);
export { h, render, Fragment };
export { useEffect, useLayoutEffect, useMemo, useRef, useState, useCallback } from './vendor/preact-hooks.js';
export { batch, computed, effect, signal, useComputed, useSignal, useSignalEffect } from './vendor/signals.js';
