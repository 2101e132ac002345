// @ts-check
/** Discover: first models for this machine, a search of Hugging Face, and one repository in detail. */

import { html, signal, useEffect } from '../html.js';
import { attempt, browse } from '../actions.js';
import { inWindow, now } from '../store.js';
import { ago, bytes, contextShort, parameters } from '../format.js';
import { abilities, createDiscover, directReference, isAddress, KINDS, SORTS } from '../discover-state.js';
import { badgeView, fitRank, short } from '../download-words.js';
import { Icon } from '../components/icons.js';
import { Badge, Callout, PageHead, Spinner } from '../components/ui.js';
import { RepoDrawer } from './discover-repo.js';
import { GetButton } from './get-button.js';
import { askToPull } from './pull-dialog.js';

const state = createDiscover(attempt);
/** The repository whose details are open. */
const repo = signal(/** @type {string | null} */ (null));
const SITES = /** @type {const} */ ({ huggingface: ['huggingface.co', 'https://huggingface.co/models?library=gguf'], ollama: ['ollama.com', 'https://ollama.com/library'] });

export function DiscoverView() {
  useEffect(() => { state.begin(); }, []);
  const close = () => {
    const id = repo.value;
    repo.value = null;
    document.getElementById(`repo:${id}`)?.focus();
  };
  return html`
    <div class="page page-fixed">
      <${PageHead} title="Discover" sub="From Hugging Face and Ollama">
        ${Object.entries(SITES).map(([site, [name, url]]) => (inWindow.value
          ? html`<button key=${site} type="button" class="button quiet" onClick=${() => browse(site)}><${Icon} name="open" /><span>${name}</span></button>`
          : html`<a key=${site} class="button quiet" href=${url} target="_blank" rel="noopener noreferrer"><${Icon} name="open" /><span>${name}</span></a>`))}
        <button type="button" class="button" onClick=${() => askToPull()}><${Icon} name="plus" /><span>Get a model…</span></button>
      <//>
      <div class="with-drawer">
        <div class="discover">
          <${Toolbar} />
          <div class="discover-scroll">
            <${Direct} />
            ${!state.query.value.trim() && !state.kind.value && html`<${Suggestions} />`}
            ${!isAddress(state.query.value) && html`<${Results} />`}
          </div>
        </div>
        ${repo.value && html`<${RepoDrawer} key=${repo.value} id=${repo.value} onClose=${close} />`}
      </div>
    </div>`;
}

function Toolbar() {
  return html`
    <div class="toolbar">
      <label class="search"><${Icon} name="search" />
        <input type="search" class="input" placeholder="Search Hugging Face, or paste an address" aria-label="Search Hugging Face" data-search list="ollama-names"
          value=${state.query.value} maxlength="200" onInput=${(/** @type {any} */ e) => state.type(e.target.value)}
          onKeyDown=${(/** @type {KeyboardEvent} */ e) => { if (e.key === 'Escape') state.type(''); }} />
        <kbd aria-hidden="true">/</kbd>
        <datalist id="ollama-names">${(state.suggested.value?.ollama_names ?? []).map((name) => html`<option key=${name} value=${name}>Ollama</option>`)}</datalist>
      </label>
      <div class="chips" role="group" aria-label="Kind">
        ${Object.entries(KINDS).map(([key, title]) => html`
          <button key=${key} type="button" class="chip" aria-pressed=${state.kind.value === key} onClick=${() => state.show(/** @type {any} */ (key))}>${title}</button>`)}
      </div>
      <select class="input sort" aria-label="Sort by" title="Sort by" value=${state.sort.value} onChange=${(/** @type {any} */ e) => state.sortBy(e.target.value)}>
        ${Object.entries(SORTS).map(([key, title]) => html`<option key=${key} value=${key}>${title}</option>`)}
      </select>
    </div>`;
}

/** A pasted address or a whole name needs no search. */
function Direct() {
  const reference = directReference(state.query.value, state.suggested.value?.ollama_names ?? []);
  if (!reference) return null;
  return html`
    <button type="button" class="direct" onClick=${() => askToPull(reference)}>
      <${Icon} name="downloads" /><span>Get <b class="wrap">${reference}</b></span></button>`;
}

function Suggestions() {
  const list = [...(state.suggested.value?.suggestions ?? [])].sort((a, b) => fitRank(a.badge) - fitRank(b.badge));
  if (!list.length) return null;
  return html`
    <section aria-label="First models for this computer">
      <h2 class="discover-title">First models for this computer</h2>
      <ul class="cards">${list.map((s) => html`<${SuggestionCard} key=${s.reference} s=${s} />`)}</ul>
    </section>`;
}

/** @param {{s: import('../types.js').Suggestion}} props */
function SuggestionCard({ s }) {
  const badge = badgeView(s.badge);
  return html`
    <li class="card model-card">
      <div class="model-card-head"><h3 class="wrap">${s.title}</h3><${Badge} tone=${badge.tone} title=${s.badge.sentence}>${badge.text}<//></div>
      <p class="model-about">${s.about}</p>
      <p class="muted digits model-facts"><span>about ${bytes(s.size_bytes)}</span>
        ${s.parameters && html`<span>${parameters({ parameter_count: s.parameters, size_label: null })} parameters</span>`}
        ${s.license && html`<span>${s.license}</span>`}${s.tags.map((tag) => html`<${Badge} key=${tag}>${tag}<//>`)}</p>
      <div class="row-actions"><${GetButton} reference=${s.reference} modelId=${s.model_id} title=${s.title} /></div>
    </li>`;
}

function Results() {
  const { found, asking, error, query } = state;
  const words = query.value.trim();
  const title = words ? `Found for “${words}”` : SORTS[state.sort.value];
  return html`
    <section aria-label="Hugging Face" aria-busy=${asking.value}>
      <h2 class="discover-title">${title} <span class="muted">on Hugging Face</span> ${asking.value && html`<${Spinner} />`}</h2>
      ${error.value && html`<${Callout} message=${error.value.message} remedy=${error.value.remedy}>
        <button type="button" class="button small" onClick=${state.search}>Try again</button><//>`}
      ${asking.value && !found.value && html`<ul class="cards" aria-hidden="true">${[1, 2, 3, 4].map((n) => html`<li key=${n} class="card model-card skeleton"></li>`)}</ul>`}
      ${found.value && (found.value.length
        ? html`<ul class="cards" data-old=${asking.value}>${found.value.map((m) => html`<${ModelCard} key=${m.id} m=${m} />`)}</ul>`
        : !asking.value && html`<div class="nothing"><p>Nothing was found.</p>
            <p class="muted">Fewer or shorter words find more; only repositories with GGUF files are searched.</p></div>`)}
    </section>`;
}

/** @param {{m: import('../types.js').HubModel}} props */
function ModelCard({ m }) {
  const [owner, name] = m.id.split('/');
  const open = repo.value === m.id;
  return html`
    <li><button type="button" class="card model-card" id=${`repo:${m.id}`} aria-expanded=${open} onClick=${() => { repo.value = open ? null : m.id; }}>
      <span class="model-card-head"><span class="model-name wrap">${name}</span>${m.gated && html`<${Badge} tone="info" title="Its owner asks you to accept terms first">gated<//>`}</span>
      <span class="muted">${owner}</span>
      <span class="muted digits model-facts">
        <span title="Downloads in the last month"><${Icon} name="downloads" />${short(m.downloads)}</span>
        <span title="Likes"><${Icon} name="heart" />${short(m.likes)}</span>
        ${m.parameters && html`<span>${parameters({ parameter_count: m.parameters, size_label: null })}</span>`}
        ${m.context_length && html`<span title="Context length it was trained for">${contextShort(m.context_length)} context</span>`}
        ${m.modified_at && html`<span>updated ${ago(m.modified_at, now.value)}</span>`}
        ${m.license && html`<span>${m.license}</span>`}
        ${abilities(m).map((word) => html`<${Badge} key=${word}>${word}<//>`)}
      </span>
    </button></li>`;
}
