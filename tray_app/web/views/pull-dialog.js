// @ts-check
/** The question before a download: what a name or an address comes to, and whether to get it. */

import { html, signal, useEffect, useRef, useState } from '../html.js';
import { attempt, run, toast } from '../actions.js';
import { go } from '../router.js';
import { bytes, plural } from '../format.js';
import { badgeView } from '../download-words.js';
import { Badge, Callout, Modal, Spinner } from '../components/ui.js';

/** @typedef {import('../types.js').Preview} Preview */

const SOON_MS = 500;
const MOST = 2048; // characters, as the engine takes them
/** What the open dialog begins with; null: it is closed. */
const opened = signal(/** @type {string | null} */ (null));

/** Opens the dialog; nothing is fetched before the user agrees. @param {string} [reference] */
export function askToPull(reference = '') {
  opened.value = reference.slice(0, MOST);
}

export const PullDialog = () => (opened.value === null ? null : html`<${Dialog} key=${opened.value} first=${opened.value} />`);

/** @typedef {{asking: boolean, preview: Preview | null, error: {code: string, message: string, remedy: string} | null}} Answer */
const NOTHING = { asking: false, preview: null, error: null };

/** @param {{first: string}} props */
function Dialog({ first }) {
  const [text, setText] = useState(first);
  const [answer, setAnswer] = useState(/** @type {Answer} */ (NOTHING));
  const asked = useRef(0);
  const field = useRef(/** @type {any} */ (null));
  const close = () => { opened.value = null; };
  const wish = text.trim();

  useEffect(() => {
    asked.current += 1;
    const number = asked.current;
    setAnswer(NOTHING);
    if (!wish) return undefined;
    const timer = setTimeout(async () => {
      setAnswer({ ...NOTHING, asking: true });
      const result = await attempt('preview_download', { reference: wish });
      if (number !== asked.current) return; // the field holds something else by now
      setAnswer(result.ok ? { ...NOTHING, preview: result.value } : { ...NOTHING, error: result.error });
    }, wish === first.trim() ? 0 : SOON_MS);
    return () => clearTimeout(timer);
  }, [wish]);
  useEffect(() => { field.current?.focus(); }, []);

  async function pull() {
    const result = await run('pull', { reference: answer.preview?.reference ?? wish });
    if (!result.ok) return;
    toast('ok', 'Added to the downloads.');
    close();
    go('downloads');
  }
  const convert = () => {
    close();
    go('convert', wish);
  };
  const { preview, error, asking } = answer;
  const later = error !== null && error.code === 'download_failed';
  const may = preview !== null || later;
  return html`
    <${Modal} title="Get a model" onClose=${close} actions=${html`
      <button type="button" class="button quiet" onClick=${close}>Not now</button>
      <button type="button" class="button primary" disabled=${!may} onClick=${pull}>${later ? 'Queue it anyway' : 'Download'}</button>`}>
      <form class="form" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); if (may) pull(); }}>
        <div class="field"><label for="pull-name">Name or address</label>
          <input ref=${field} id="pull-name" class="input mono" value=${text} maxlength=${MOST} spellcheck=${false} autocomplete="off"
            placeholder="org/repo:Q4_K_M, llama3.2:1b or https://…" onInput=${(/** @type {any} */ e) => setText(e.target.value)} /></div>
        <div class="pull-answer" aria-live="polite">
          ${!wish && html`<p class="muted">A repository of Hugging Face, a name of Ollama’s, or the address of a .gguf file.</p>`}
          ${asking && html`<p class="muted state-line"><${Spinner} /> Asking what it is…</p>`}
          ${error && html`<${Callout} tone=${error.code === 'needs_conversion' ? 'info' : 'bad'} message=${error.message} remedy=${error.remedy}>
            ${error.code === 'needs_conversion' && html`<button type="button" class="button small" onClick=${convert}>Convert it…</button>`}<//>`}
          ${preview && html`<${Facts} preview=${preview} />`}
        </div>
      </form>
    <//>`;
}

/** @param {{preview: Preview}} props */
function Facts({ preview }) {
  const total = preview.total_bytes;
  const short = total != null && total > preview.free_bytes;
  const badge = preview.badge && badgeView(preview.badge);
  return html`
    <h3>${preview.title}</h3>
    ${preview.model_id && html`<${Callout} tone="info" message="This model is in your library already." remedy="Its files are checked, and fetched again only where they differ." />`}
    ${badge && html`<p class="fit-line"><${Badge} tone=${badge.tone}>${badge.text}<//> <span class="muted">${preview.badge?.sentence}</span></p>`}
    <dl class="facts digits">
      <div class="fact"><dt>Size</dt><dd>${total == null ? 'not known' : bytes(total)} <span class="muted">of ${bytes(preview.free_bytes)} that are free</span></dd></div>
      <div class="fact"><dt>${preview.files.length === 1 ? 'File' : plural(preview.files.length, 'file')}</dt>
        <dd><ul class="pull-files">${preview.files.slice(0, 12).map((f) => html`
          <li key=${f.path}><span class="wrap">${f.path.split('/').pop()}</span> <span class="muted">${f.size_bytes == null ? '' : bytes(f.size_bytes)}${ROLES[f.role] ?? ''}</span></li>`)}
          ${preview.files.length > 12 && html`<li class="muted">and ${preview.files.length - 12} more</li>`}</ul></dd></div>
      ${preview.license && html`<div class="fact"><dt>License</dt><dd>${preview.license}</dd></div>`}
      ${preview.page && html`<div class="fact"><dt>From</dt><dd class="wrap">${preview.page}</dd></div>`}
    </dl>
    ${short && html`<${Callout} message=${`It needs ${bytes(total)} and ${bytes(preview.free_bytes)} are free.`} remedy="Free some disk space, or choose a smaller quantization." />`}
    ${preview.warnings.map((text) => html`<${Callout} key=${text} tone="warn" message=${text} />`)}`;
}

/** @type {Record<string, string>} */
const ROLES = { mmproj: ', for images', adapter: ', an adapter' };
