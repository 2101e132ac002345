// @ts-check
/** Sharing on the network: the switch, the addresses there, and the keys that open the server. */

import { html, useEffect, useState } from '../html.js';
import { attempt, run, toast } from '../actions.js';
import { gateway, settings } from '../store.js';
import { Field, Switch } from '../components/fields.js';
import { QrCode } from '../components/qr-code.js';
import { Ago, Callout, Card, CodeBlock, CopyButton } from '../components/ui.js';

/** @typedef {import('../types.js').Sharing} Sharing */

export function SharingCard() {
  const [told, setTold] = useState(/** @type {Sharing | null} */ (null));
  const [fresh, setFresh] = useState(/** @type {{name: string, key: string, code: string[]} | null} */ (null));
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
    if (result.value.new_key) setFresh({ ...result.value.new_key, code: result.value.key_code });
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
        ${told.addresses.length > 0 && html`
          <details class="more"><summary>QR code for a phone</summary>
            <div class="qr-codes">${told.addresses.map((each) => html`
              <figure key=${each.url}><${QrCode} rows=${each.code} label=${`QR code of ${each.url}`} /><figcaption class="muted">${each.interface}</figcaption></figure>`)}
              ${fresh?.code.length && html`
              <figure><${QrCode} rows=${fresh.code} label=${`QR code of the key ${fresh.name}`} /><figcaption class="muted">the key</figcaption></figure>`}
            </div></details>`}
        ${!told.addresses.length && html`<p class="muted">This computer is in no network now.</p>`}
        <p class="muted hint">${told.secured ? 'What is sent is encrypted with your certificate; on this computer http:// goes on.'
          : 'What is sent is not encrypted: share in networks you trust, or give a certificate.'}</p>`}
      <${Certificate} onChange=${() => ask('sharing')} />
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

/** The files of a TLS certificate, saved together because each needs the other. @param {{onChange: () => void}} props */
function Certificate({ onChange }) {
  const { tls_certificate: certificate = null, tls_key: key = null } = settings.value.server ?? {};
  const [form, setForm] = useState({ certificate: certificate ?? '', key: key ?? '' });
  const [error, setError] = useState(/** @type {any} */ (null));
  useEffect(() => setForm({ certificate: certificate ?? '', key: key ?? '' }), [certificate, key]);
  const changed = form.certificate !== (certificate ?? '') || form.key !== (key ?? '');

  /** @param {Event} event */
  async function save(event) {
    event.preventDefault();
    const changes = { 'server.tls_certificate': form.certificate.trim() || null, 'server.tls_key': form.key.trim() || null };
    const result = await attempt('change_settings', { changes }, 'server.tls_certificate');
    setError(result.ok ? null : result.error);
    if (result.ok) toast('ok', 'Saved.');
    onChange();
  }
  return html`
    <details class="more" open=${Boolean(certificate)}><summary>Certificate for https</summary>
      <form class="certificate" onSubmit=${save}>
        <${Field} label="Certificate" mono value=${form.certificate} placeholder="a PEM file" error=${error && { message: error.message, remedy: error.remedy }}
          onInput=${(/** @type {string} */ text) => setForm({ ...form, certificate: text })} />
        <${Field} label="Its private key" mono value=${form.key} placeholder="in the same file" onInput=${(/** @type {string} */ text) => setForm({ ...form, key: text })} />
        <button type="submit" class="button" disabled=${!changed}>Use it</button>
      </form>
    </details>`;
}
