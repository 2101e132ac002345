// @ts-check
/** Settings: each is saved when it changes; a refusal stands at its field. */

import { html, useEffect, useState } from '../html.js';
import { attempt, bridge, run, toast, asCommandError } from '../actions.js';
import { home, inWindow, memory, models, settings, snapshot, theme, themeWish } from '../store.js';
import { bytes, numberOrText } from '../format.js';
import { minutesText, secondsOf } from '../model-form.js';
import { Field, Segments, Select, Switch } from '../components/fields.js';
import { Card, CopyButton, PageHead } from '../components/ui.js';
import { AppUpdateCard } from './app-update-card.js';
import { Aliases } from './aliases.js';
import { DownloadSettings } from './download-settings.js';
import { Folders } from './library-drawer.js';

const GB = 1e9;

/** Saving one key, with the refusal kept for that key. */
function useSaver() {
  const [errors, setErrors] = useState(/** @type {Record<string, any>} */ ({}));
  /** @param {string} key @param {unknown} value */
  async function save(key, value) {
    const result = await attempt('change_settings', { changes: { [key]: value } }, key);
    setErrors((old) => ({ ...old, [key]: result.ok ? null : result.error }));
    if (result.ok) toast('ok', 'Saved.');
    return result.ok;
  }
  return { errors, save };
}

export function SettingsView() {
  const { errors, save } = useSaver();
  const { server = {}, ui = {}, runtime = {} } = settings.value;
  /** @param {string} key */
  const number = (key) => (/** @type {string} */ text) => save(key, numberOrText(text));
  return html`
    <div class="page">
      <${PageHead} title="Settings" />
      <div class="page-scroll"><div class="settings">
        <${Card} title="Window">
          <${Segments} label="Theme" name="theme" value=${theme.value ?? 'system'}
            options=${[['system', 'System'], ['light', 'Light'], ['dark', 'Dark']]} onChange=${changeTheme} />
          <${Switch} label="Keep running in the tray when the window closes" checked=${ui.close_to_tray ?? true}
            onChange=${(/** @type {boolean} */ on) => save('ui.close_to_tray', on)} />
          <${Autostart} />
        <//>
        <${Card} title="Server">
          <div class="form-pair">
            <${Field} label="Port" type="number" value=${String(server.port ?? 7070)} onCommit=${number('server.port')} error=${errors['server.port']}
              hint="Where other programs reach the models." />
            <${Field} label="Context length" type="number" unit="tokens" value=${String(server.context_length ?? 8192)}
              onCommit=${number('server.context_length')} error=${errors['server.context_length']} hint="For models without one of their own." />
            <${Field} label="Requests at once" type="number" unit="per model" value=${server.parallel == null ? '' : String(server.parallel)} placeholder="automatic"
              onCommit=${number('server.parallel')} error=${errors['server.parallel']} hint="More are answered one after another." />
            <${Field} label="Waiting requests" type="number" unit="per model" value=${String(server.max_queue ?? 64)}
              onCommit=${number('server.max_queue')} error=${errors['server.max_queue']} hint="More than these are refused." />
          </div>
          <${StartWith} value=${server.start_with ?? 'last'} save=${save} error=${errors['server.start_with']} />
        <//>
        <${Card} title="Memory">
          <${Budget} value=${server.memory_budget_bytes ?? null} save=${save} error=${errors['server.memory_budget_bytes']} />
          <${Keeping} server=${server} save=${save} errors=${errors} />
        <//>
        <${Card} title="Folders"><p class="muted hint">Read through all their subfolders. Nothing in them is changed.</p><${Folders} /><//>
        <${DownloadSettings} save=${save} errors=${errors} />
        <${Card} title="Other names"><${Aliases} error=${errors.aliases} save=${(/** @type {any} */ table) => save('aliases', table)} /><//>
        <${Card} title="Runtime" actions=${html`<a class="button small quiet" href="#/runtimes">Manage runtimes</a>`}>
          <${Field} label="llama-server program" mono value=${runtime.server_path ?? ''} placeholder="found by itself"
            onCommit=${(/** @type {string} */ text) => save('runtime.server_path', text.trim() || null)} error=${errors['runtime.server_path']}
            hint="Empty: the best llama.cpp found on this computer." />
          <${Switch} label="Build llama.cpp when none is found" checked=${runtime.auto_build ?? true}
            onChange=${(/** @type {boolean} */ on) => save('runtime.auto_build', on)} />
          <${Field} label="List of releases" mono value=${runtime.feed_url ?? ''} placeholder="the official one"
            onCommit=${(/** @type {string} */ text) => save('runtime.feed_url', text.trim() || null)} error=${errors['runtime.feed_url']}
            hint="The address asked for new llama.cpp releases. Empty: the official one." />
        <//>
        <${AppUpdateCard} save=${save} errors=${errors} />
        <${About} />
      </div></div>
    </div>`;
}

const WISH_MS = 3000;

/** Shown at once; taken back when the engine refuses, or when its settings never follow. @param {string} wish */
async function changeTheme(wish) {
  themeWish.value = wish;
  const giveUp = () => { if (themeWish.value === wish) themeWish.value = null; };
  const { ok } = await run('change_settings', { changes: { 'ui.theme': wish } }, 'ui.theme');
  if (!ok) giveUp();
  else {
    toast('ok', 'Saved.');
    setTimeout(giveUp, WISH_MS);
  }
}

/** The system's own answer each time, never a stored one. Only in the app's window. */
function Autostart() {
  const [on, setOn] = useState(/** @type {boolean | null} */ (null));
  useEffect(() => {
    if (inWindow.value) bridge.native.autostart().then(setOn, () => setOn(null));
  }, [inWindow.value]);
  if (!inWindow.value || on === null) return null;
  /** @param {boolean} wish */
  async function change(wish) {
    try {
      setOn(await bridge.native.setAutostart(wish));
    } catch (error) {
      const { message, remedy } = asCommandError(error);
      toast('bad', message, remedy);
      setOn(await bridge.native.autostart().catch(() => on));
    }
  }
  return html`<${Switch} label="Start when I log in" checked=${on} onChange=${change} />`;
}

/** @param {{value: string, save: (key: string, value: unknown) => void, error: any}} props */
function StartWith({ value, save, error }) {
  const options = [['last', 'The model used last'], ['nothing', 'No model'],
    ...models.value.map((m) => [m.id, m.name])];
  if (!options.some(([key]) => key === value)) options.push([value, value]);
  return html`<${Select} label="Start with" value=${value} options=${options} error=${error}
    onChange=${(/** @type {string} */ v) => save('server.start_with', v)} />`;
}

/** @param {{value: number | null, save: (key: string, value: unknown) => Promise<boolean>, error: any}} props */
function Budget({ value, save, error }) {
  const [own, setOwn] = useState(value !== null);
  const key = 'server.memory_budget_bytes';
  const m = memory.value;
  useEffect(() => setOwn(value !== null), [value]);
  const text = value === null ? '' : String(Number((value / GB).toFixed(2)));
  /** @param {string} typed */
  const commit = (typed) => {
    const wish = Number(typed.replace(',', '.'));
    save(key, typed.trim() === '' ? null : Number.isFinite(wish) ? Math.round(wish * GB) : typed);
  };
  return html`
    <${Segments} label="Memory for models" name="budget" value=${own ? 'own' : 'auto'} options=${[['auto', 'Automatic'], ['own', 'At most…']]}
      onChange=${(/** @type {string} */ v) => { setOwn(v === 'own'); if (v === 'auto' && value !== null) save(key, null); }} />
    ${own && html`<${Field} label="At most" unit="GB" type="text" value=${text} placeholder=${m ? (m.budget_bytes / GB).toFixed(1) : ''}
      onCommit=${commit} error=${error} />`}
    <p class="muted hint digits">${m && `Models may hold ${bytes(m.budget_bytes)} together now, of ${bytes(m.total_bytes)} in this computer.`}${' '}
      When more is needed, the least used model leaves; pinned ones stay.</p>`;
}

/** How long models stay. @param {{server: any, save: (key: string, value: unknown) => Promise<boolean>, errors: Record<string, any>}} props */
function Keeping({ server, save, errors }) {
  const rest = server.rest_model ?? '';
  const options = [['', 'None'], ...models.value.map((m) => [m.id, m.name])];
  if (!options.some(([key]) => key === rest)) options.push([rest, rest]);
  return html`
    <div class="form-pair">
      <${Field} label="Unload when idle for" unit="minutes" type="number" value=${minutesText(server.idle_unload_s ?? 300)}
        onCommit=${(/** @type {string} */ text) => save('server.idle_unload_s', secondsOf(text))} error=${errors['server.idle_unload_s']}
        hint="After its last answer. 0: models stay until the memory is needed." />
      <${Select} label="Then load" value=${rest} options=${options} error=${errors['server.rest_model']}
        hint="A small model that stays when all others have left." onChange=${(/** @type {string} */ v) => save('server.rest_model', v || null)} />
    </div>
    <${Switch} label="Make room when other programs need the memory" checked=${server.yield_memory ?? true}
      hint="Those that nobody uses leave, the least missed first." onChange=${(/** @type {boolean} */ on) => save('server.yield_memory', on)} />
    <div class="conversations">
      <${Switch} label="Keep conversations when a model leaves memory" checked=${server.keep_conversations ?? true}
        hint=${`So it need not read them again when it comes back. On this computer's disk, ${bytes(server.conversations_bytes ?? 0)} at most.`}
        onChange=${(/** @type {boolean} */ on) => save('server.keep_conversations', on)} />
      <button type="button" class="button small quiet" onClick=${forgetConversations}>Forget them</button>
    </div>`;
}

async function forgetConversations() {
  const result = await run('forget_conversations');
  if (result.ok) toast('ok', result.value ? `${bytes(result.value)} of kept conversations were removed.` : 'No conversation was kept.');
}

function About() {
  const s = snapshot.value;
  /** Writes one redacted bundle for a bug report. */
  async function diagnose() {
    const result = await run('copy_diagnostics');
    if (result.ok) toast('ok', `Diagnostics are in ${result.value.path}`);
  }
  return html`
    <${Card} title="About">
      <dl class="facts">
        <div class="fact"><dt>Version</dt><dd>${s?.version}</dd></div>
        <div class="fact"><dt>Files</dt><dd><code class="mono wrap">${home.value}</code><${CopyButton} text=${home.value} label="Copy path" /></dd></div>
      </dl>
      <button type="button" class="button" onClick=${diagnose}>Save diagnostics</button>
    <//>`;
}
