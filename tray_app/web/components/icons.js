// @ts-check
/** Line icons, drawn as elements: 20 by 20, one stroke, in the colour of the text. */

import { html } from '../html.js';

const PATHS = {
  models: 'M10 2.5 17 6v8l-7 3.5L3 14V6zM3 6l7 3.5L17 6M10 9.5v8',
  server: 'M3.5 4h13v5h-13zM3.5 11h13v5h-13zM6.5 6.5h.01M6.5 13.5h.01M10 6.5h4M10 13.5h4',
  connect: 'M7 3v4M13 3v4M5 7h10v3a5 5 0 0 1-10 0zM10 15v3',
  runtimes: 'M6 6h8v8H6zM8.5 8.5h3v3h-3zM8 6V3M12 6V3M8 17v-3M12 17v-3M6 8H3M6 12H3M17 8h-3M17 12h-3',
  chat: 'M3.5 4h13v9.5h-7L6 16.5v-3H3.5zM7 7.5h6M7 10h4',
  settings: 'M3 6h6M13 6h4M3 14h3M10 14h7M11 6m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0M8 14m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0',
  search: 'M9 9m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0M12.7 12.7 16.5 16.5',
  pin: 'M7.5 3h5l-.6 5.2 2.6 2.6v1.4h-9v-1.4l2.6-2.6zM10 12.2V17',
  eject: 'M10 4.5 16 11H4zM4 14.5h12',
  copy: 'M7.5 7.5h8.5V16H7.5zM12.5 7.500V4H4v8.500h3.500',
  check: 'M4 10.500 8.200 14.500 16 6',
  folder: 'M2.500 5h5.500l1.500 2h8v8.500h-15z',
  plus: 'M10 4v12M4 10h12',
  close: 'M5 5l10 10M15 5 5 15',
  right: 'M8 5l5 5-5 5',
  back: 'M7.500 4.500 4 8l3.500 3.500M4 8h8a4 4 0 0 1 0 8H8',
  down: 'M5 8l5 5 5-5',
  stop: 'M5.500 5.500h9v9h-9z',
  send: 'M10 16V4.500M5 9.500l5-5 5 5',
  refresh: 'M15.500 8A6 6 0 0 0 4.600 7M4.500 3.500V7H8M4.500 12A6 6 0 0 0 15.400 13M15.500 16.500V13H12',
  edit: 'M4 16l.800-3.500L13 4.300l2.700 2.700-8.200 8.200zM11.500 5.800l2.700 2.700',
  warning: 'M10 3.200 17.500 16.500h-15zM10 8.500v3.500M10 14.200h.01',
  info: 'M10 10m-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0M10 9.200V14M10 6.400h.01',
  pause: 'M7 4.500v11M13 4.500v11',
  play: 'M6.500 4.500 15 10l-8.500 5.500z',
  up: 'M5 12l5-5 5 5',
  discover: 'M10 10m-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0M13 7l-1.800 4.200L7 13l1.800-4.200z',
  downloads: 'M10 3v9M6 8.500l4 4 4-4M3.500 16.500h13',
  convert: 'M4 7.500h9M10 4.500l3 3-3 3M16 12.500H7M10 9.500l-3 3 3 3',
  heart: 'M10 16.500 3.500 10a3.800 3.800 0 0 1 5.400-5.400L10 5.700l1.100-1.100A3.800 3.800 0 0 1 16.500 10z',
  trash: 'M4 6h12M8 6V4h4v2M5.500 6l.700 10.500h7.600L14.500 6M8.500 9v4.500M11.500 9v4.500',
  build: 'M12.500 3.500a4 4 0 0 0-3.700 5.500L3.500 14.300l2.200 2.200L11 11.200a4 4 0 0 0 5.200-5L13.800 8.600l-2.400-2.400 2.400-2.400z',
  open: 'M11 4h5v5M16 4l-7 7M8 5H4v11h11v-4',
};

/** @typedef {keyof typeof PATHS} IconName */

/** @param {{name: IconName, class?: string}} props */
export const Icon = ({ name, class: extra = '' }) => html`
  <svg class=${`icon ${extra}`} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
    <path d=${PATHS[name]} />
  </svg>`;
