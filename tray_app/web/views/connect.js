// @ts-check
/** Connect: what to type into which program, and whether that works right now. */

import { html, useEffect, useRef, useState } from '../html.js';
import { attempt } from '../actions.js';
import { PROGRAMS, programOf } from '../connect-snippets.js';
import { tryOut } from '../connect-test.js';
import { activeId, activeModel, gateway, modelById, models, now, settings } from '../store.js';
import { Select } from '../components/fields.js';
import { Icon } from '../components/icons.js';
import { Callout, CodeBlock, CopyButton, PageHead, Spinner, Words } from '../components/ui.js';

/** @typedef {import('../connect-test.js').Outcome} Outcome */

const LINUX = /Linux/.test(globalThis.navigator?.userAgent ?? '');
const PROTOCOLS = {
  openai: 'OpenAI’s API', responses: 'OpenAI’s Responses API', anthropic: 'Anthropic’s API', ollama: 'Ollama’s API', embeddings: 'OpenAI’s API',
};

export function ConnectView() {
  const [chosen, setChosen] = useState(PROGRAMS[0].id);
  const [model, setModel] = useState('default');
  const door = gateway.value;
  const program = programOf(chosen);
  const meant = model === 'default' ? activeModel.value : modelById.value.get(settings.value.aliases?.[model] ?? model) ?? activeModel.value;
  const ask = {
    base: door?.base_url ?? '', model, follows: activeId.value ?? '', keyed: Boolean(door?.key_required),
    embedding: meant?.kind === 'embedding', linux: LINUX,
  };
  return html`
    <div class="page">
      <${PageHead} title="Connect" sub="Any program that speaks OpenAI’s, Anthropic’s or Ollama’s API can use the models." />
      <div class="page-scroll"><div class="connect">
        <div class="connect-ask">
          <div class="address"><span class="muted">Address</span><code class="mono" title=${ask.base}>${ask.base}</code>
            <${CopyButton} text=${ask.base} label="Copy address" /></div>
          <${Select} label="Model" value=${model} options=${names()} onChange=${setModel} />
        </div>
        ${!meant && html`<${Callout} tone="warn" message="No model is in use." remedy="Pick one on the Models page: “default” goes to it." />`}
        ${door?.error && html`<${Callout} message=${door.error.message} remedy=${door.error.remedy} />`}
        <div class="connect-body">
          <div class="programs" role="tablist" aria-label="Program" aria-orientation="vertical" onKeyDown=${step}>
            ${PROGRAMS.map((each) => html`
              <button key=${each.id} type="button" role="tab" class="program" id=${`program-${each.id}`} aria-controls="program-panel"
                aria-selected=${each.id === chosen} tabIndex=${each.id === chosen ? 0 : -1} onClick=${() => setChosen(each.id)}>${each.name}</button>`)}
          </div>
          <${Panel} key=${`${program.id} ${model} ${ask.embedding}`} program=${program} ask=${ask} />
        </div>
      </div></div>
    </div>`;
}

/** What requests can name: `default`, aliases, models. @returns {[string, string][]} */
function names() {
  const active = activeModel.value;
  const aliases = Object.keys(settings.value.aliases ?? {});
  return [
    ['default', active ? `default, now ${active.name}` : 'default'],
    ...aliases.map((name) => /** @type {[string, string]} */ ([name, `${name} (alias)`])),
    ...models.value.filter((m) => m.available).map((m) => /** @type {[string, string]} */ ([m.id, m.id])),
  ];
}

/** Arrow keys walk through tabs. @param {KeyboardEvent} event */
function step(event) {
  const by = /** @type {Record<string, number>} */ ({ ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 })[event.key];
  if (!by || !(event.currentTarget instanceof HTMLElement)) return;
  const tabs = [...event.currentTarget.querySelectorAll('button')];
  const next = tabs[(tabs.findIndex((tab) => tab === document.activeElement) + by + tabs.length) % tabs.length];
  event.preventDefault();
  next.focus();
  next.click();
}

/** @param {{program: import('../connect-snippets.js').Program, ask: import('../connect-snippets.js').Ask}} props */
function Panel({ program, ask }) {
  const fits = !ask.embedding || program.embeds;
  const { text, where, notes } = program.write(ask);
  return html`
    <section class="card program-panel" id="program-panel" role="tabpanel" aria-labelledby=${`program-${program.id}`}>
      <div class="card-head"><h2>${program.name}</h2><span class="muted">${PROTOCOLS[program.protocol]}</span></div>
      ${fits ? html`
        <p class="muted"><${Words} text=${where} /></p>
        <${CodeBlock} text=${text} label=${`${program.name} settings`} />
        ${ask.keyed && html`<p class="muted">Put a key in the place of YOUR-KEY: the <a href="#/server">Server page</a> makes one for each program.</p>`}
        ${notes.map((note) => html`<p key=${note} class="muted">${note}</p>`)}
        <${TestNow} program=${program} ask=${ask} />`
      : html`<${Callout} tone="info" message=${`${program.name} wants a model that chats; this one makes embeddings.`} remedy="Choose another model above." />`}
    </section>`;
}

/** @param {{program: import('../connect-snippets.js').Program, ask: import('../connect-snippets.js').Ask}} props */
function TestNow({ program, ask }) {
  const [outcome, setOutcome] = useState(/** @type {Outcome | null} */ (null));
  const [since, setSince] = useState(0);
  const running = useRef(/** @type {AbortController | null} */ (null));
  useEffect(() => () => running.current?.abort(), []);

  async function test() {
    const controller = new AbortController();
    running.current = controller;
    setOutcome(null);
    setSince(Date.now() / 1000);
    const key = ask.keyed ? await attempt('gateway_key') : null;
    // Codex and Claude Code have tests of their own protocols; what embeds is asked to embed.
    const protocol = ask.embedding ? 'embeddings' : program.protocol;
    const told = await tryOut({
      protocol, base: ask.base, model: ask.model, key: key?.ok ? key.value : '', signal: controller.signal,
    });
    if (running.current !== controller) return;
    running.current = null;
    setSince(0);
    setOutcome(told);
  }
  const seconds = since ? Math.max(0, Math.round(now.value - since)) : 0;
  return html`
    <div class="test-now">
      ${since
        ? html`<button type="button" class="button" onClick=${() => running.current?.abort()}>Stop</button>
            <span role="status" class="muted"><${Spinner} /> Asking the model${seconds > 1 && `, ${seconds} s`}…</span>`
        : html`<button type="button" class="button primary" disabled=${!ask.base} onClick=${test}>Test now</button>
            <span class="muted">asks the model for a sentence, the way ${program.name} does</span>`}
    </div>
    ${outcome && (outcome.ok
      ? html`<div class="callout" data-tone="ok" role="status"><${Icon} name="check" />
          <div class="callout-text"><p>It works: an answer in ${outcome.seconds.toFixed(1)} s.</p><p class="muted test-answer">${outcome.text}</p></div></div>`
      : html`<${Callout} message=${outcome.message} remedy=${outcome.remedy} />`)}`;
}
