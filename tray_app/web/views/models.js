// @ts-check
/** The library: every model, what it is doing, and the one that is in use. */

import { computed, html, signal, useEffect, useLayoutEffect, useRef, useState } from '../html.js';
import { chooseFolder, rescan, useModel } from '../actions.js';
import { activeId, folders, inWindow, leftOut, modelById, models, recents, scanning, statusById } from '../store.js';
import { arrange, counts, FILTERS, SORTS } from '../model-list.js';
import { plural } from '../format.js';
import { Icon } from '../components/icons.js';
import { PageHead, Spinner } from '../components/ui.js';
import { VirtualList } from '../components/virtual-list.js';
import { FirstModel } from './first-model.js';
import { LibraryDrawer } from './library-drawer.js';
import { ModelDrawer } from './model-drawer.js';
import { ModelRow } from './model-row.js';
import { askToPull } from './pull-dialog.js';

const ROW_HEIGHT = 64; // px; --row-height in tokens.css

const query = signal('');
const filter = signal(/** @type {import('../model-list.js').Filter} */ ('all'));
const sort = signal(/** @type {import('../model-list.js').Sort} */ ('name'));
const down = signal(false);
/** `library`, a model's id, or nothing. @type {import('../html.js').Signal<string | null>} */
const drawer = signal(null);
const LIBRARY = 'library:';

// Sorting by use or filtering by state needs the statuses; otherwise they do not disturb the list.
const shown = computed(() => arrange(models.value, {
  query: query.value,
  filter: filter.value,
  sort: sort.value,
  down: down.value,
  statuses: filter.value === 'loaded' || filter.value === 'problem' ? statusById.value : new Map(),
  recents: sort.value === 'recent' ? recents.value : [],
}));

/** @param {import('../model-list.js').Sort} key @param {boolean} [toggle] */
function sortBy(key, toggle = false) {
  down.value = toggle && sort.value === key ? !down.value : !(key === 'name');
  sort.value = key;
}

export function ModelsView() {
  const empty = models.value.length === 0;
  const opened = drawer.value !== LIBRARY && drawer.value ? modelById.value.get(drawer.value) : null;
  const close = () => {
    const id = drawer.value;
    drawer.value = null;
    const row = id && document.getElementById(`row:${id}`);
    if (row) row.focus();
  };
  return html`
    <div class="page page-fixed">
      <${PageHead} title="Models" sub=${html`<${LibraryLine} />`}>
        <button type="button" class="button quiet" onClick=${() => rescan()} disabled=${scanning.value}>
          <${Icon} name="refresh" /><span>Scan again</span></button>
        <button type="button" class="button quiet" aria-expanded=${drawer.value === LIBRARY}
          onClick=${() => { drawer.value = drawer.value === LIBRARY ? null : LIBRARY; }}>
          <${Icon} name="folder" /><span>Folders</span></button>
        <button type="button" class="button quiet" onClick=${() => askToPull()}><${Icon} name="downloads" /><span>Get a model…</span></button>
        ${inWindow.value && html`
          <button type="button" class="button" onClick=${chooseFolder}><${Icon} name="plus" /><span>Add folder</span></button>`}
      <//>
      <div class="with-drawer">
        ${empty ? html`<${FirstModel} openFolders=${() => { drawer.value = LIBRARY; }} />` : html`<${List} />`}
        ${drawer.value === LIBRARY && html`<${LibraryDrawer} onClose=${close} />`}
        ${opened && html`<${ModelDrawer} key=${opened.id} model=${opened} onClose=${close} />`}
      </div>
    </div>`;
}

function LibraryLine() {
  const missing = folders.value.filter((f) => f.state !== 'ok').length;
  const parts = [models.value.length ? plural(models.value.length, 'model') : 'No model yet', `in ${plural(folders.value.length, 'folder')}`];
  if (missing) parts.push(`· ${missing} not reachable`);
  if (leftOut.value.length) parts.push(`· ${plural(leftOut.value.length, 'file')} left out`);
  return html`<span>${parts.join(' ')}</span>${scanning.value && html`<span class="scanning"><${Spinner} /> Scanning</span>`}`;
}

function Toolbar() {
  const numbers = counts(models.value, statusById.value);
  const keys = /** @type {(keyof typeof FILTERS)[]} */ (Object.keys(FILTERS));
  return html`
    <div class="toolbar">
      <label class="search"><${Icon} name="search" />
        <input type="search" class="input" placeholder="Search models" aria-label="Search models" data-search
          value=${query.value} onInput=${(/** @type {any} */ e) => { query.value = e.target.value; }}
          onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === 'Escape') { query.value = ''; } }} />
        <kbd aria-hidden="true">/</kbd>
      </label>
      <div class="chips" role="group" aria-label="Show">
        ${keys.filter((key) => key === 'all' || key === 'loaded' || numbers[key] || filter.value === key).map((key) => html`
          <button key=${key} type="button" class="chip" aria-pressed=${filter.value === key}
            onClick=${() => { filter.value = key; }}>${FILTERS[key]} <span class="digits muted">${numbers[key]}</span></button>`)}
      </div>
      <select class="input sort" aria-label="Sort by" title="Sort by" value=${sort.value} onChange=${(/** @type {any} */ e) => sortBy(e.target.value)}>
        ${Object.entries(SORTS).map(([key, title]) => html`<option key=${key} value=${key}>${title}</option>`)}
      </select>
    </div>`;
}

/** @param {{name: import('../model-list.js').Sort, class?: string}} props */
const HeadCell = ({ name, class: extra = '' }) => html`
  <button type="button" class=${`head-cell ${extra}`} data-on=${sort.value === name} data-down=${down.value}
    title=${`Sort by ${SORTS[name].toLowerCase()}`} onClick=${() => sortBy(name, true)}>${SORTS[name]}</button>`;

function List() {
  const box = useRef(/** @type {any} */ (null));
  const [at, setAt] = useState(0);
  const refocus = useRef(false);
  const list = shown.value;
  const focusAt = Math.min(at, list.length - 1);

  useLayoutEffect(() => {
    if (!refocus.current || focusAt < 0) return;
    refocus.current = false;
    const id = list[focusAt]?.id;
    if (id !== undefined) document.getElementById(`row:${id}`)?.focus({ preventScroll: true });
  });
  useEffect(() => { if (box.current) box.current.scrollTop = 0; }, [query.value, filter.value, sort.value, down.value]);

  /** @param {number} next */
  function move(next) {
    const index = Math.max(0, Math.min(list.length - 1, next));
    const { scrollTop, clientHeight } = box.current;
    const top = index * ROW_HEIGHT;
    if (top < scrollTop) box.current.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight) box.current.scrollTop = top + ROW_HEIGHT - clientHeight;
    refocus.current = true;
    setAt(index);
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const perPage = Math.max(1, Math.floor(box.current.clientHeight / ROW_HEIGHT) - 1);
    const steps = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + perPage, PageUp: at - perPage, Home: 0, End: list.length - 1 };
    const next = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (next !== undefined) {
      event.preventDefault();
      move(next);
      return;
    }
    const onRow = event.target instanceof HTMLElement && event.target.classList.contains('model-row');
    const model = list[focusAt];
    if (!onRow || !model) return;
    if (event.key === 'Enter' && model.available && model.id !== activeId.value) useModel(model.id);
    if (event.key === ' ' || event.key === 'ArrowRight') {
      event.preventDefault();
      drawer.value = model.id;
    }
  }

  return html`
    <div class="model-list">
      <${Toolbar} />
      <div class="model-head" aria-hidden="true">
        <span></span><${HeadCell} name="name" /><${HeadCell} name="parameters" class="m-params" />
        <span class="m-quant">Quantization</span><${HeadCell} name="size" class="m-size" />
        <${HeadCell} name="context" class="m-ctx" /><span class="m-state">State</span><span></span>
      </div>
      ${list.length === 0
        ? html`<div class="nothing"><p>No model matches.</p>
            <button type="button" class="button quiet" onClick=${() => { query.value = ''; filter.value = 'all'; }}>Show all models</button></div>`
        : html`<${VirtualList} boxRef=${box} items=${list} rowHeight=${ROW_HEIGHT} keep=${focusAt} keyOf=${idOf}
            box=${{ onKeyDown: onKey }} inner=${{ role: 'list', 'aria-label': 'Models' }}
            row=${(/** @type {import('../types.js').Model} */ model, /** @type {number} */ index) => html`
              <${ModelRow} model=${model} tabIndex=${index === focusAt ? 0 : -1} open=${drawer.value === model.id}
                onFocus=${() => setAt(index)} onOpen=${() => { drawer.value = drawer.value === model.id ? null : model.id; }} />`} />`}
    </div>`;
}

/** @param {import('../types.js').Model} model */
const idOf = (model) => model.id;
