// @ts-check
/** Sharing on the network: the switch, the addresses there, and the keys that open the server. */

import { html, useEffect, useState } from '../html.js';
import { run } from '../actions.js';
import { gateway, settings } from '../store.js';
import { Field, Switch } from '../components/fields.js';
import { Ago, Callout, Card, CodeBlock, CopyButton } from '../components/ui.js';

/** @typedef {import('../types.js').Sharing} Sharing */

export function SharingCard() {
  const [told, setTold] = useState(/** @type {Sharing | null} */ (null));
  const [fresh, setFresh] = useState(/** @type {{name: string, key: string} | null} */ (null));
  const [name, setName] = useState('');
  const [busy, setBusy] = useState(false);
  const door = gateway.value;

  /** @param {string} command @param {Record<string, any>} [args] @returns {Promise<boolean>} */
  async function ask(command, args = {}) {
    setBusy(true);
    const result = await run(command, args, command);
    setBusy(false);
    if (!result.ok) return false;
    setTold(result.value);
    if (result.value.new_key) setFresh(result.value.new_key);
    return true;
  }
  // Others may share too: the tray, the command line.
  useEffect(() => { ask('sharing'); }, [door?.state, door?.key_required, door?.host, door?.port]);
  if (!told) return null;

  /** @param {Event} event */
  async function create(event) {
    event.preventDefault();
    if (await ask('create_api_key', { name })) setName('');
  }
  return html`
    <${Card} title="Sharing" class="sharing">
      <${Switch} label="Share on my network" checked=${told.on} disabled=${busy}
        hint="Other computers and phones can use the models, with a key. Without it only this computer can."
        onChange=${(/** @type {boolean} */ on) => ask('share', { on })} />
      ${told.on && html`
        <ul class="addresses">${told.addresses.map((each) => html`
          <li key=${each.url} class="address"><span class="muted">${each.interface}</span>
            <code class="mono">${each.url}</code><${CopyButton} text=${each.url} label="Copy address" /></li>`)}</ul>
        ${!told.addresses.length && html`<p class="muted">This computer is in no network now.</p>`}
        <p class="muted hint">What is sent is not encrypted: share in networks you trust.</p>`}
      ${fresh && html`
        <${Callout} tone="warn" message=${`This is “${fresh.name}”. It is shown only once: copy it now.`} />
        <${CodeBlock} text=${fresh.key} label="API key" />`}
      ${told.keys.length > 0 && html`
        <${Switch} label="Programs on this computer need a key as well" checked=${!settings.value.server?.local_without_key}
          hint="The chat here has its own." onChange=${(/** @type {boolean} */ on) => run('change_settings', { changes: { 'server.local_without_key': !on } })} />
        <ul class="keys">${told.keys.map((key) => html`
          <li key=${key.name} class="key-row"><div><strong>${key.name}</strong>
            <span class="muted">ends in <code class="mono">${key.ending}</code> · made <${Ago} at=${key.created_at} /></span></div>
            <button type="button" class="button small quiet" disabled=${busy} aria-label=${`Revoke ${key.name}`}
              onClick=${() => { if (fresh?.name === key.name) setFresh(null); ask('revoke_api_key', { name: key.name }); }}>Revoke</button></li>`)}</ul>`}
      <form class="key-form" onSubmit=${create}>
        <${Field} label="New key for" value=${name} placeholder="a program or a person" onInput=${setName} />
        <button type="submit" class="button" disabled=${busy || !name.trim()}>Make a key</button>
      </form>
    <//>`;
}
