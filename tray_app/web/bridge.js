// @ts-check
/**
 * How the page reaches the engine, and the only file that knows window.pywebview.
 *
 * Commands go through `pywebview.api.call` in the app's window and through POST /api/call in a
 * plain browser; both answer one envelope. Events are server-sent events in either case.
 */

/** @typedef {import('./types.js').ErrorView} ErrorView */
/** @typedef {import('./types.js').Snapshot} Snapshot */
/** @typedef {'connecting' | 'open' | 'lost' | 'expired'} Link */

/** Every event class of engine/events.py; `Missed` is handled here. */
export const EVENT_NAMES = Object.freeze([
  'ModelChanged', 'ActiveModelChanged', 'LibraryChanged', 'RuntimeChanged', 'GatewayChanged',
  'JobChanged', 'DownloadChanged', 'SettingsChanged', 'AppUpdateChanged', 'NoticesChanged', 'RequestFinished', 'WindowRequested',
  'EngineStopping', 'Missed',
]);

const RETRY_FIRST_MS = 400;
const RETRY_MOST_MS = 5000;
const REFRESH_GAP_MS = 1000; // a snapshot of 1,000 models is 0.7 MB: at most about one a second

/** A command the engine refused, or could not be asked. */
export class CommandError extends Error {
  /** @param {Partial<ErrorView>} view */
  constructor(view) {
    super(view.message || 'The engine gave no reason.');
    this.code = view.code || 'engine';
    this.remedy = view.remedy || '';
  }
}

const UNREACHABLE = {
  code: 'engine_unreachable',
  message: 'The engine does not answer.',
  remedy: 'It may be restarting. If this stays, start Llama Wrangler again.',
};
const EXPIRED = {
  code: 'unauthorized',
  message: 'This page is no longer signed in to the engine.',
  remedy: 'Open the window again from the tray icon.',
};

/**
 * @param {any} envelope `{ok: true, value}` or `{ok: false, error}`
 * @returns {any} the value
 * @throws {CommandError}
 */
export function unwrap(envelope) {
  if (envelope && envelope.ok === true) return envelope.value;
  if (envelope && envelope.ok === false) throw new CommandError(envelope.error ?? {});
  throw new CommandError({ code: 'bridge', message: 'The engine sent an answer this page cannot read.' });
}

/**
 * @typedef {object} Deps
 * @property {any} [win] object that may carry `pywebview`
 * @property {typeof fetch} [fetchFn]
 * @property {any} [EventSourceClass]
 */

/** @param {Deps} [deps] replaced in tests */
export function createBridge(deps = {}) {
  const win = deps.win ?? globalThis;
  const fetchFn = deps.fetchFn ?? ((...args) => fetch(...args));
  const nativeCall = () => win.pywebview?.api?.call;

  /**
   * Runs one command.
   * @param {string} name
   * @param {Record<string, unknown>} [args]
   * @returns {Promise<any>}
   */
  async function call(name, args = {}) {
    const native = nativeCall();
    if (native) return unwrap(await nativeEnvelope(native, name, args));
    if (name.startsWith('native:')) {
      throw new CommandError({ code: 'no_window', message: 'Only the app window can do this.' });
    }
    return unwrap(await fetchEnvelope(name, args));
  }

  /**
   * @param {(name: string, args: object) => Promise<any>} native
   * @param {string} name
   * @param {object} args
   */
  async function nativeEnvelope(native, name, args) {
    try {
      return await native(name, args);
    } catch {
      return { ok: false, error: UNREACHABLE };
    }
  }

  /**
   * @param {string} name
   * @param {object} args
   */
  async function fetchEnvelope(name, args) {
    let response;
    try {
      response = await fetchFn('/api/call', {
        method: 'POST',
        credentials: 'same-origin',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ name, args }),
      });
    } catch {
      return { ok: false, error: UNREACHABLE };
    }
    if (response.status === 401 || response.status === 403) return { ok: false, error: EXPIRED };
    try {
      return await response.json();
    } catch {
      return { ok: false, error: { code: 'bridge', message: `The engine answered with HTTP ${response.status}.` } };
    }
  }

  const native = {
    /** @returns {boolean} whether this page runs in the app's own window */
    available: () => Boolean(nativeCall()),
    /** @returns {Promise<string | null>} null when the user closed the chooser */
    chooseFolder: () => call('native:choose_folder'),
    /** @returns {Promise<string[]>} the .gguf files that the user picks; none when the chooser was closed */
    chooseFiles: async () => (await call('native:choose_files')) ?? [],
    /** @param {string} site 'huggingface' or 'ollama', in a window of its own */
    browse: (site) => call('native:browse', { site }),
    /** @param {string} path */
    openPath: (path) => call('native:open_path', { path }),
    /** @param {string} url opened in the system's browser, never in this window */
    openUrl: (url) => call('native:open_url', { url }),
    /** @returns {Promise<boolean>} */
    autostart: async () => Boolean(await call('native:autostart')),
    /** @param {boolean} enabled @returns {Promise<boolean>} what the system says afterwards */
    setAutostart: async (enabled) => Boolean(await call('native:autostart', { enabled })),
  };

  /**
   * @param {string} text
   * @returns {Promise<boolean>} false when neither way works and the user has to copy by hand
   */
  async function copyText(text) {
    if (native.available()) {
      try {
        await call('native:copy_text', { text });
        return true;
      } catch { /* an older window: the browser's own clipboard may still work */ }
    }
    try {
      await win.navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }

  return { call, native, copyText, connect: connector(call, deps.EventSourceClass ?? win.EventSource) };
}

/**
 * @param {(name: string) => Promise<any>} call
 * @param {any} EventSourceClass
 */
function connector(call, EventSourceClass) {
  /**
   * Keeps the page in step with the engine until closed: a snapshot, then the events after it,
   * and a new snapshot after every gap or reconnection.
   * @param {object} on
   * @param {(snapshot: Snapshot) => void} on.snapshot
   * @param {(seq: number, name: string, data: any) => void} on.event
   * @param {(link: Link) => void} on.link
   */
  return function connect(on) {
    let seq = 0;
    let source = /** @type {any} */ (null);
    let closed = false;
    let retryMs = RETRY_FIRST_MS;
    let timer = /** @type {any} */ (0);
    let refreshTimer = /** @type {any} */ (0);
    let refreshedAt = 0;
    /** @type {Promise<void> | null} */
    let asking = null;
    let askAgain = false;
    /** Events that came while a snapshot was under way. @type {[number, string, any][]} */
    let late = [];

    async function takeSnapshot() {
      late = [];
      const snapshot = await call('snapshot');
      const missed = late.filter(([number]) => number > snapshot.seq);
      seq = missed.length ? Math.max(...missed.map(([number]) => number)) : snapshot.seq;
      on.snapshot(snapshot);
      for (const entry of missed) on.event(...entry);
      refreshedAt = Date.now();
    }

    /** @returns {Promise<void>} */
    function refreshNow() {
      clearTimeout(refreshTimer);
      refreshTimer = 0;
      if (asking) {
        askAgain = true;
        return asking;
      }
      asking = takeSnapshot()
        .catch(() => restart())
        .finally(() => {
          asking = null;
          if (askAgain) {
            askAgain = false;
            refresh(0);
          }
        });
      return asking;
    }

    /** Asks for a snapshot after `delayMs`, together with every other wish for one. */
    function refresh(delayMs = 60) {
      if (closed || refreshTimer) return;
      const gap = Math.max(delayMs, refreshedAt + REFRESH_GAP_MS - Date.now(), 0);
      refreshTimer = setTimeout(refreshNow, gap);
    }

    /** @param {string} name @param {MessageEvent} message */
    function receive(name, message) {
      const number = Number(message.lastEventId) || 0;
      if (name === 'Missed') {
        seq = number;
        refreshNow();
        return;
      }
      if (number && number <= seq) return; // already part of a snapshot
      const gap = number > seq + 1;
      seq = number || seq;
      const data = JSON.parse(message.data || '{}');
      if (asking) late.push([number, name, data]);
      on.event(number, name, data);
      if (gap) refreshNow();
    }

    function restart() {
      source?.close();
      source = null;
      if (closed) return;
      clearTimeout(timer);
      timer = setTimeout(start, retryMs);
      retryMs = Math.min(retryMs * 2, RETRY_MOST_MS);
    }

    async function start() {
      try {
        await takeSnapshot();
      } catch (error) {
        const expired = error instanceof CommandError && error.code === 'unauthorized';
        on.link(expired ? 'expired' : 'lost');
        restart();
        return;
      }
      if (closed) return;
      source = new EventSourceClass(`/api/events?after=${seq}`);
      source.onopen = () => {
        retryMs = RETRY_FIRST_MS;
        on.link('open');
      };
      source.onerror = () => {
        on.link('lost');
        restart();
      };
      for (const name of EVENT_NAMES) {
        source.addEventListener(name, (/** @type {MessageEvent} */ message) => receive(name, message));
      }
    }

    on.link('connecting');
    start();
    return {
      refresh,
      close() {
        closed = true;
        clearTimeout(timer);
        clearTimeout(refreshTimer);
        source?.close();
      },
    };
  };
}
