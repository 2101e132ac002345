// @ts-check
/** Starts the page: connects to the engine, draws the shell, listens for keys. */

import { effect, html, render, useEffect, useRef } from './html.js';
import { attempt, bridge } from './actions.js';
import { restore, takeKeyFrom } from './chat-state.js';
import { look as lookAt } from './convert-state.js';
import { REFETCH } from './reduce.js';
import { go, listen, page, PAGES } from './router.js';
import { gateway, inWindow, link, now, snapshot, takeEvent, takeSnapshot, theme as wanted } from './store.js';
import { JobStrip, LinkBar, ManualCopy, Notices, Sidebar, Toasts } from './components/chrome.js';
import { Spinner } from './components/ui.js';
import { DropVeil } from './drop-veil.js';
import { ChatView } from './views/chat.js';
import { ConnectView } from './views/connect.js';
import { ConvertView } from './views/convert.js';
import { DiscoverView } from './views/discover.js';
import { DownloadsView } from './views/downloads.js';
import { ModelsView } from './views/models.js';
import { askToPull, PullDialog } from './views/pull-dialog.js';
import { RuntimesView } from './views/runtimes.js';
import { ServerView } from './views/server.js';
import { SettingsView } from './views/settings.js';

const VIEWS = {
  models: ModelsView, discover: DiscoverView, downloads: DownloadsView, convert: ConvertView, server: ServerView, connect: ConnectView, runtimes: RuntimesView, chat: ChatView,
  settings: SettingsView,
};
const THEME_KEY = 'llama-wrangler.theme';
const SOON_MS = 700;

function App() {
  const main = useRef(/** @type {any} */ (null));
  const first = useRef(true);
  const View = VIEWS[page.value];
  useEffect(() => {
    document.title = `${page.value[0].toUpperCase()}${page.value.slice(1)} · Llama Wrangler`;
    // A view that put the focus in its own field keeps it there.
    const taken = main.current.contains(document.activeElement);
    if (!first.current && !taken) main.current.querySelector('h1')?.focus({ preventScroll: true });
    first.current = false;
  }, [page.value]);
  return html`
    <div class="shell">
      <${Sidebar} />
      <div class="main">
        <${LinkBar} />
        <${Notices} />
        <main ref=${main} class="view" id="main" data-page=${page.value}>
          ${snapshot.value ? html`<${View} key=${page.value} />` : html`<${Connecting} />`}
        </main>
        <${JobStrip} />
      </div>
      <${Toasts} />
      <${ManualCopy} />
      <${PullDialog} />
      <${DropVeil} />
    </div>`;
}

const Connecting = () => html`
  <div class="connecting" role="status"><${Spinner} /><p class="muted">Connecting to the engine…</p></div>`;

/** @param {string | undefined} theme */
function setTheme(theme) {
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function followTheme() {
  try {
    setTheme(localStorage.getItem(THEME_KEY) ?? undefined); // before the first answer: no flash
  } catch { /* storage refused */ }
  effect(() => {
    const theme = wanted.value;
    if (!theme) return;
    setTheme(theme);
    try {
      localStorage.setItem(THEME_KEY, theme);
    } catch { /* storage refused: the theme comes a moment later next time */ }
  });
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const typing = event.target instanceof HTMLElement && event.target.matches('input, textarea, select');
  if ((event.ctrlKey || event.metaKey) && !event.altKey && /^[1-9]$/.test(event.key) && Number(event.key) <= PAGES.length) {
    event.preventDefault();
    go(PAGES[Number(event.key) - 1]);
  } else if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const search = document.querySelector('[data-search]');
    if (search instanceof HTMLElement) {
      event.preventDefault();
      search.focus();
    }
  }
}

function connect() {
  const line = bridge.connect({
    snapshot: takeSnapshot,
    event: (seq, name, data) => {
      const refetch = takeEvent(seq, name, data);
      if (refetch !== REFETCH.NO) line.refresh(refetch === REFETCH.NOW ? undefined : SOON_MS);
      if (name === 'WindowRequested' && inWindow.value) go(data.page, data.reference);
    },
    link: (state) => { link.value = state; },
  });
}

function start() {
  const root = document.getElementById('app');
  if (!root) return;
  inWindow.value = bridge.native.available();
  takeKeyFrom(async () => {
    if (!gateway.value?.key_required) return '';
    const result = await attempt('gateway_key');
    return result.ok ? result.value : '';
  });
  addEventListener('pywebviewready', () => { inWindow.value = bridge.native.available(); });
  setInterval(() => { if (!document.hidden) now.value = Date.now() / 1000; }, 1000);
  addEventListener('keydown', onKey);
  followTheme();
  restore();
  listen((reference, where) => (where === 'convert' ? lookAt(reference) : askToPull(reference)));
  connect();
  render(html`<${App} />`, root);
}

start();
