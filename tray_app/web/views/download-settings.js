// @ts-check
/** The settings of downloads, and the token for Hugging Face. */

import { html, useEffect, useState } from '../html.js';
import { attempt, toast } from '../actions.js';
import { settings } from '../store.js';
import { Field } from '../components/fields.js';
import { Card } from '../components/ui.js';
import { WebAddress } from '../components/markdown-view.js';
import { numberOrText } from '../format.js';

const MB = 1e6;
const TOKENS = 'https://huggingface.co/settings/tokens';

/** @param {{save: (key: string, value: unknown) => Promise<boolean>, errors: Record<string, any>}} props */
export function DownloadSettings({ save, errors }) {
  const { concurrent = 2, connections = 4, limit_bytes_s: limit = null, hub_endpoint: mirror = null } = settings.value.downloads ?? {};
  /** @param {string} key */
  const number = (key) => (/** @type {string} */ text) => save(`downloads.${key}`, numberOrText(text));
  /** @param {string} typed */
  const limitTo = (typed) => {
    const wish = Number(typed.replace(',', '.'));
    save('downloads.limit_bytes_s', typed.trim() === '' ? null : Number.isFinite(wish) ? Math.round(wish * MB) : typed);
  };
  return html`
    <${Card} title="Downloads">
      <div class="form-pair">
        <${Field} label="At a time" type="number" unit="downloads" value=${String(concurrent)} onCommit=${number('concurrent')} error=${errors['downloads.concurrent']} />
        <${Field} label="Connections" type="number" unit="each, at most" value=${String(connections)} onCommit=${number('connections')} error=${errors['downloads.connections']}
          hint="More help where one alone does not fill the line." />
        <${Field} label="Speed limit" type="text" unit="MB/s" value=${limit === null ? '' : String(Number((limit / MB).toFixed(2)))} placeholder="none"
          onCommit=${limitTo} error=${errors['downloads.limit_bytes_s']} hint="For all downloads together." />
        <${Field} label="Mirror of Hugging Face" mono value=${mirror ?? ''} placeholder="none"
          onCommit=${(/** @type {string} */ text) => save('downloads.hub_endpoint', text.trim() || null)} error=${errors['downloads.hub_endpoint']} />
      </div>
      <${Token} />
    <//>`;
}

/** @type {Record<string, string>} */
const SOURCES = {
  keychain: 'A token is kept in this system’s keychain.',
  environment: 'The token of the environment variable HF_TOKEN is used.',
  file: 'The token that “hf auth login” has stored is used.',
  none: 'No token. Public models need none; gated and private ones do.',
};

/** The token itself never comes back to the page. */
function Token() {
  const [account, setAccount] = useState(/** @type {import('../types.js').HubAccount | null} */ (null));
  const [text, setText] = useState('');
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  useEffect(() => { attempt('hub_account').then((r) => { if (r.ok) setAccount(r.value); }); }, []);
  /** @param {string | null} token */
  async function keep(token) {
    setBusy(true);
    const result = await attempt('set_hub_token', { token });
    setBusy(false);
    setError(result.ok ? null : result.error);
    if (!result.ok) return;
    setText('');
    setAccount(result.value);
    toast('ok', token === null ? 'The token was removed.' : 'The token is in the keychain.');
  }
  return html`
    <form class="token" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); if (text.trim()) keep(text.trim()); }}>
      <${Field} label="Hugging Face token" type="password" value=${text} placeholder=${account?.source === 'keychain' ? 'kept' : 'hf_…'} onInput=${setText} error=${error} />
      <p class="muted hint">${account && (SOURCES[account.source] ?? '')} ${account?.problem && !error && `The keychain cannot be used: ${account.problem}`}</p>
      <div class="row-actions">
        <button type="submit" class="button small" disabled=${busy || !text.trim()}>Keep in the keychain</button>
        ${account?.source === 'keychain' && html`<button type="button" class="button small quiet" disabled=${busy} onClick=${() => keep(null)}>Remove it</button>`}
        <span class="muted hint">Get one: <${WebAddress} url=${TOKENS} /></span>
      </div>
    </form>`;
}
