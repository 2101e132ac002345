// @ts-check
/** The ways this computer can run models, best first, with what to do about each. */

import { html } from '../html.js';
import { installRuntime, pending, run, useRuntime } from '../actions.js';
import { preferred } from '../rungs.js';
import { backendHint, backendName } from '../runtime-words.js';
import { asking, available, rungs, runtimeBusy, wish } from '../runtime-offers.js';
import { bytes } from '../format.js';
import { Icon } from '../components/icons.js';
import { Badge, Card, CodeBlock, Spinner, Words } from '../components/ui.js';

/** @typedef {import('../rungs.js').RungView} RungView */
/** @typedef {{onBuild: (backend: string) => void}} BuildProps */

const BEST = 'Best for this computer';

/** @param {string | null} backend null: the best for this computer */
const prefer = (backend) => run('change_settings', { changes: { 'runtime.backend': backend } }, 'runtime.backend');

/** @param {BuildProps} props */
export function LadderCard({ onBuild }) {
  const views = rungs.value;
  const others = views.filter((view) => !view.rung.usable);
  const best = preferred(views.map((view) => view.rung), null);
  return html`
    <${Card} title="What this computer can use" class="ladder-card" actions=${available.value === null && asking.value !== '' && html`
      <span class="state-line muted hint" role="status"><${Spinner} /> Looking for downloads…</span>`}>
      ${views.length === 0 ? html`<p class="muted nothing-line">Known as soon as the computer has been looked at.</p>` : html`
        <fieldset class="ladder">
          <legend class="muted hint">The one you choose here is what Llama Wrangler looks for, installs and updates.</legend>
          <div class="rung" data-on=${wish.value === null}>
            <label class="rung-head"><${Choice} value=${null} />
              <span class="rung-name">${BEST}</span>${best && html`<span class="muted">now ${backendName(best)}</span>`}</label>
          </div>
          ${views.filter((view) => view.rung.usable).map((view) => html`<${RungRow} key=${view.rung.backend} view=${view} onBuild=${onBuild} />`)}
          ${others.length > 0 && html`
            <details class="more other-rungs" open=${others.some((view) => view.inUse || wish.value === view.rung.backend)}>
              <summary>Not for this computer (${others.length})</summary>
              ${others.map((view) => html`<${RungRow} key=${view.rung.backend} view=${view} onBuild=${onBuild} />`)}
            </details>`}
        </fieldset>`}
    <//>`;
}

/** @param {{value: string | null}} props */
const Choice = ({ value }) => html`
  <input type="radio" name="runtime-backend" class="rung-radio" aria-label=${value === null ? BEST : backendName(value)} checked=${wish.value === value} onChange=${() => prefer(value)} />`;

/** @param {BuildProps & {view: RungView}} props */
function RungRow({ view, onBuild }) {
  const { rung, inUse, best } = view;
  const gpus = rung.gpus.filter((name) => !rung.reason.includes(name));
  return html`
    <div class="rung" data-on=${wish.value === rung.backend} data-off=${!rung.usable}>
      <label class="rung-head"><${Choice} value=${rung.backend} />
        <span class="rung-name">${backendName(rung.backend)}</span>
        ${inUse && html`<${Badge} tone="ok">in use</${Badge}>`}
        ${best && rung.usable && !inUse && html`<${Badge} tone="accent">${wish.value ? 'your choice' : 'best here'}</${Badge}>`}
        <span class="muted rung-for">${backendHint(rung.backend)}</span></label>
      <div class="rung-actions"><${RungActions} view=${view} onBuild=${onBuild} /></div>
      <p class="rung-reason" data-usable=${rung.usable}><${Icon} name=${rung.usable ? 'check' : 'close'} />
        <span><span class="only-read">${rung.usable ? 'Usable: ' : 'Not usable: '}</span><${Words} text=${rung.reason} />
          ${gpus.length > 0 && html`<span class="muted"> ${gpus.join(', ')}</span>`}</span></p>
      ${view.wants && html`<${Wants} view=${view} wants=${view.wants} />`}
    </div>`;
}

/** @param {BuildProps & {view: RungView}} props */
function RungActions({ view, onBuild }) {
  const { rung, use, install, upgrade, build, best, inUse } = view;
  const verb = upgrade ? 'Update' : 'Install';
  const name = backendName(rung.backend);
  const waiting = runtimeBusy.value;
  const main = best && rung.usable && !inUse ? 'button small primary' : 'button small';
  const rest = rung.usable ? 'button small' : 'button small quiet';
  return html`
    ${use && html`<button type="button" class=${main} aria-label=${`Use ${use.id}`} title=${use.id}
      disabled=${waiting || pending.value.has(`use_runtime:${use.id}`)} onClick=${() => useRuntime(use.id)}>Use</button>`}
    ${install && html`<button type="button" class=${use ? rest : main} aria-label=${`${verb} ${name}: ${install.tag}`} title=${install.tag}
      disabled=${waiting || pending.value.has(`install_runtime:${rung.backend}`)} onClick=${() => installRuntime(rung.backend, install.build)}>
      ${verb} <span class="digits button-size">${bytes(install.size_bytes)}</span></button>`}
    ${build && html`<button type="button" class=${!use && !install ? main : 'button small quiet'} aria-label=${`Build ${name}`}
      title="Compile it on this computer" disabled=${waiting} onClick=${() => onBuild(rung.backend)}>Build…</button>`}`;
}

/** What stands between this computer and a build. @param {{view: RungView, wants: import('../types.js').Buildable}} props */
function Wants({ view, wants }) {
  const only = view.best && !view.inUse && !view.use && !view.install;
  return html`
    <details class="more rung-wants" open=${only}>
      <summary>What building it needs</summary>
      <p>${wants.missing.length ? html`Missing: ${wants.missing.join(', ')}.` : html`<${Words} text=${wants.reason} />`}</p>
      ${wants.install_command && html`<${CodeBlock} text=${wants.install_command} label=${`install command for ${backendName(wants.backend)}`} wrap />`}
    </details>`;
}
