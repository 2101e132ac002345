// @ts-check
/** One repository: what it offers, how each would run here, and its own words. */

import { html, useEffect, useRef, useState } from '../html.js';
import { attempt } from '../actions.js';
import { go } from '../router.js';
import { models } from '../store.js';
import { bytes, contextShort, plural } from '../format.js';
import { badgeView } from '../download-words.js';
import { Drawer } from '../components/drawer.js';
import { Markdown, WebAddress } from '../components/markdown-view.js';
import { Badge, Callout, Spinner } from '../components/ui.js';
import { GetButton } from './get-button.js';

/** @typedef {import('../types.js').RepoDetails} RepoDetails */
/** @typedef {import('../types.js').Offer} Offer */

const CONTEXTS = [4096, 8192, 16384, 32768, 131072];

/** @param {{id: string, onClose: () => void}} props */
export function RepoDrawer({ id, onClose }) {
  const [context, setContext] = useState(/** @type {number | null} */ (null));
  const [details, setDetails] = useState(/** @type {RepoDetails | null} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [again, setAgain] = useState(0);
  const asked = useRef(0);
  const here = models.value.length; // a model that has come changes what a button says

  useEffect(() => {
    asked.current += 1;
    const number = asked.current;
    attempt('repo_details', context === null ? { repo: id } : { repo: id, context_length: context }, id).then((result) => {
      if (number !== asked.current) return;
      if (result.ok) setDetails(result.value);
      setError(result.ok ? null : result.error);
    });
  }, [id, context, again, here]);

  const tokens = context ?? details?.offers[0]?.badge.context_length ?? null;
  return html`
    <${Drawer} title=${id.split('/')[1] ?? id} onClose=${onClose} sub=${html`<p class="drawer-sub muted">${id.split('/')[0]}</p>`}>
      ${error && html`<${Callout} tone=${error.code === 'needs_conversion' ? 'info' : 'bad'} message=${error.message} remedy=${error.remedy}>
        ${error.code === 'needs_conversion'
          ? html`<button type="button" class="button small" onClick=${() => go('convert', id)}>Convert it…</button>`
          : html`<button type="button" class="button small" onClick=${() => setAgain(again + 1)}>Try again</button>`}<//>`}
      ${!details && !error && html`<p class="muted state-line"><${Spinner} /> Asking Hugging Face…</p>`}
      ${details && html`
        ${details.gated && html`<${Callout} tone="info" message="Its owner asks you to sign in and accept terms first."
          remedy="Do that on its page, then put a token of yours into the settings." />`}
        <${Facts} details=${details} />
        <${Context} details=${details} tokens=${tokens} onChange=${setContext} />
        ${details.problem && html`<${Callout} tone="warn" message=${details.problem.message} remedy=${details.problem.remedy} />`}
        <ul class="offers">${details.offers.map((o) => html`<${OfferRow} key=${o.reference} o=${o} />`)}</ul>
        ${details.left_out.length > 0 && html`<details class="more"><summary>${plural(details.left_out.length, 'file')} beside the models</summary>
          <ul class="left-out muted">${details.left_out.slice(0, 100).map((line) => html`<li key=${line} class="wrap">${line}</li>`)}</ul></details>`}
        <${Card} id=${id} />`}
    <//>`;
}

/** @param {{details: RepoDetails}} props */
const Facts = ({ details }) => html`
  <dl class="facts digits">
    <div class="fact"><dt>Page</dt><dd><${WebAddress} url=${details.page} /></dd></div>
    ${details.license && html`<div class="fact"><dt>License</dt><dd>${details.license}</dd></div>`}
    ${details.architecture && html`<div class="fact"><dt>Architecture</dt><dd>${details.architecture}</dd></div>`}
    ${details.context_length && html`<div class="fact"><dt>Trained for</dt><dd>${contextShort(details.context_length)} tokens</dd></div>`}
  </dl>`;

/** @param {{details: RepoDetails, tokens: number | null, onChange: (tokens: number) => void}} props */
function Context({ details, tokens, onChange }) {
  const most = details.context_length;
  const list = CONTEXTS.filter((n) => !most || n <= most);
  if (most && !list.includes(most)) list.push(most);
  if (tokens && !list.includes(tokens)) list.push(tokens);
  list.sort((a, b) => a - b);
  return html`
    <div class="context-line"><label for="repo-context">How it would run here, with a context of</label>
      <select id="repo-context" class="input small" value=${String(tokens)} onChange=${(/** @type {any} */ e) => onChange(Number(e.target.value))}>
        ${list.map((n) => html`<option key=${n} value=${String(n)} selected=${n === tokens}>${contextShort(n)}</option>`)}
      </select></div>`;
}

/** @param {{o: Offer}} props */
function OfferRow({ o }) {
  const badge = badgeView(o.badge);
  const size = o.size_bytes == null ? 'size not known' : bytes(o.size_bytes);
  return html`
    <li class="offer" data-recommended=${o.recommended}>
      <div class="offer-head"><b class="wrap">${o.label}</b>${o.recommended && html`<${Badge} tone="accent">recommended<//>`}
        <${Badge} tone=${badge.tone}>${badge.text}<//>
        <span class="muted digits offer-size">${size}${o.projector_bytes != null ? ` + ${bytes(o.projector_bytes)} for images` : ''}</span></div>
      <p>${o.about}</p>
      <p class="muted">${o.badge.sentence}</p>
      ${!o.complete && html`<p class="muted">Some of its parts are missing at the hub.</p>`}
      <div class="row-actions"><${GetButton} reference=${o.reference} modelId=${o.model_id} title=${o.label} main=${o.recommended} disabled=${!o.complete} /></div>
    </li>`;
}

/** @param {{id: string}} props */
function Card({ id }) {
  const [card, setCard] = useState(/** @type {any} */ (null));
  const [open, setOpen] = useState(false);
  useEffect(() => {
    let gone = false;
    attempt('model_card', { repo: id }, id).then((result) => { if (!gone && result.ok) setCard(result.value); });
    return () => { gone = true; };
  }, [id]);
  if (!card?.markdown) return null;
  return html`
    <h3>In its author’s words</h3>
    <div><div class="repo-card" data-open=${open}><${Markdown} text=${card.markdown} /></div></div>
    ${card.truncated && open && html`<p class="muted">The rest is on its page.</p>`}
    <button type="button" class="button small quiet" aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? 'Show less' : 'Show all of it'}</button>`;
}
