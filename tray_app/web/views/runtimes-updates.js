// @ts-check
/** Newer releases of llama.cpp, how to hear of them, and all that can be had. */

import { html } from '../html.js';
import { installRuntime, pending, run, skipUpdate } from '../actions.js';
import { now, runtime, settings } from '../store.js';
import { backendName, choiceName } from '../runtime-words.js';
import { askAvailable, askError, asking, available, runtimeBusy } from '../runtime-offers.js';
import { ago, bytes, day } from '../format.js';
import { Segments } from '../components/fields.js';
import { Icon } from '../components/icons.js';
import { Markdown, WebAddress } from '../components/markdown-view.js';
import { Badge, Callout, Card, Spinner } from '../components/ui.js';

/** @typedef {import('../types.js').Release} Release */
/** @typedef {import('../types.js').Update} Update */

/** @type {Record<string, string>} */
const MODES = {
  off: 'llama.cpp stays as it is until you change it.',
  notify: 'You are told when there is a newer one; nothing is installed by itself.',
  auto: 'A newer one is installed while no model answers, and used once it is proven.',
};

export function UpdatesCard() {
  const update = runtime.value?.update ?? null;
  const mode = settings.value.runtime?.updates ?? 'notify';
  const busy = asking.value === 'anew';
  return html`
    <${Card} title="Updates" class="updates-card" actions=${html`
      <${Checked} />
      <button type="button" class="button small" disabled=${asking.value !== ''} onClick=${() => askAvailable(true)}>
        ${busy ? html`<${Spinner} />` : html`<${Icon} name="refresh" />`}<span>Check now</span></button>`}>
      <${FeedTrouble} />
      ${update && html`<${UpdateBox} update=${update} />`}
      <${Segments} label="When there is a newer llama.cpp" name="runtime-updates" value=${mode}
        options=${[['off', 'Off'], ['notify', 'Tell me'], ['auto', 'Install by itself when idle']]}
        onChange=${(/** @type {string} */ wish) => run('change_settings', { changes: { 'runtime.updates': wish } }, 'runtime.updates')} />
      <p class="muted hint">${MODES[mode] ?? ''}</p>
      <${Releases} />
    <//>`;
}

function Checked() {
  const at = available.value?.checked_at;
  if (asking.value === 'anew') return html`<span class="muted hint seen-at" role="status">asking…</span>`;
  return html`<span class="muted hint seen-at">${at == null ? '' : `checked ${ago(at, now.value)}`}</span>`;
}

/** The list of releases could not be had. What is installed works all the same. */
function FeedTrouble() {
  const error = askError.value ?? available.value?.error ?? null;
  if (!error) return null;
  const builds = available.value?.buildable.some((one) => one.usable);
  const rest = [error.remedy, builds ? 'Building from source works without it: “Build…” above.' : 'What is installed works as before.'];
  return html`<${Callout} tone="warn" message=${error.message} remedy=${rest.filter(Boolean).join(' ')} />`;
}

/** @param {{update: Update}} props */
function UpdateBox({ update }) {
  const facts = [backendName(update.backend), update.published_at != null && `released ${day(update.published_at)}`,
    update.size_bytes != null && `${bytes(update.size_bytes)} to download`].filter(Boolean);
  return html`
    <section class="update" id="update" tabIndex=${-1} aria-label=${`Update ${update.tag}`}>
      <div class="update-head">
        <div><h3>llama.cpp ${update.tag} is there</h3><p class="muted digits hint">${facts.join(' · ')}</p></div>
        <div class="row-actions">
          <button type="button" class="button small quiet" disabled=${pending.value.has('skip_update:')}
            onClick=${() => skipUpdate(update.build)}>Skip this one</button>
          <button type="button" class="button small primary" disabled=${runtimeBusy.value || pending.value.has('install_runtime:update')}
            onClick=${() => installRuntime(update.backend, update.build, 'update')}>Install ${update.tag}</button>
        </div>
      </div>
      ${update.notes.trim() && html`
        <details class="more"><summary>What is new</summary>
          <div class="notes" tabIndex=${0} role="region" aria-label=${`Notes of ${update.tag}`}><${Markdown} text=${update.notes} /></div></details>`}
      ${update.url && html`<p class="hint"><${WebAddress} url=${update.url} /></p>`}
    </section>`;
}

function Releases() {
  const list = available.value?.releases ?? [];
  if (available.value === null) {
    return asking.value ? html`<p class="state-line muted hint"><${Spinner} /> Reading the list of releases…</p>` : null;
  }
  if (!list.length) return !available.value.error && html`<p class="muted hint">No release is known yet. “Check now” asks for them.</p>`;
  return html`
    <details class="more"><summary>All releases (${list.length})</summary>
      <ul class="releases">${list.map((release) => html`<${ReleaseRow} key=${release.tag} release=${release} />`)}</ul>
    </details>`;
}

/** @param {{release: Release}} props */
function ReleaseRow({ release }) {
  const usable = release.choices.filter((choice) => choice.usable || choice.installed);
  const others = release.choices.filter((choice) => !usable.includes(choice));
  return html`
    <li class="release">
      <div class="release-name"><strong>${release.tag}</strong><span class="muted digits">${day(release.published_at)}</span></div>
      <ul class="choices">
        ${usable.length === 0 && html`<li class="muted">Nothing for this computer.</li>`}
        ${usable.map((choice) => html`<${ChoiceRow} key=${choice.runtime_id} release=${release} choice=${choice} />`)}
        ${usable.length > 0 && others.length > 0 && html`<li class="muted hint" title=${others.map((one) => `${choiceName(one)}: ${one.reason}`).join('\n')}>
          Not for this computer: ${others.map(choiceName).join(', ')}</li>`}
      </ul>
    </li>`;
}

/** @param {{release: Release, choice: import('../types.js').Choice}} props */
const ChoiceRow = ({ release, choice }) => html`
  <li class="choice"><span>${choiceName(choice)}</span><span class="muted digits">${bytes(choice.size_bytes)}</span>
    ${choice.installed ? html`<${Badge} tone="ok">installed</${Badge}>`
      : html`<button type="button" class="button small" aria-label=${`Install ${release.tag} for ${choiceName(choice)}`}
          disabled=${runtimeBusy.value || pending.value.has(`install_runtime:${choice.runtime_id}`)}
          onClick=${() => installRuntime(choice.backend, release.build, choice.runtime_id)}>Install</button>`}
  </li>`;
