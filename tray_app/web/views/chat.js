// @ts-check
/** A conversation with the model in use, streamed from the gateway. */

import { html, useEffect, useLayoutEffect, useRef, useState } from '../html.js';
import { draft, messages, newChat, send, setSystemPrompt, stop, streaming, systemPrompt } from '../chat-state.js';
import { activeModel, gateway, models, settings } from '../store.js';
import { useModel } from '../actions.js';
import { Icon } from '../components/icons.js';
import { ModelStateText } from '../components/model-state.js';
import { PageHead } from '../components/ui.js';
import { ChatMessage } from './chat-message.js';

const AT_END_PX = 40;

export function ChatView() {
  const [system, setSystem] = useState(Boolean(systemPrompt.value));
  return html`
    <div class="page page-fixed">
      <${PageHead} title="Chat" sub=${html`<${ModelLine} />`}>
        <button type="button" class="button quiet" aria-expanded=${system} onClick=${() => setSystem(!system)}>
          <${Icon} name="settings" /><span>System prompt</span></button>
        <button type="button" class="button" disabled=${messages.value.length === 0} onClick=${newChat}>
          <${Icon} name="plus" /><span>New chat</span></button>
      <//>
      ${system && html`<${SystemPrompt} />`}
      <${Conversation} />
      <${Composer} />
    </div>`;
}

function ModelLine() {
  const model = activeModel.value;
  const usable = models.value.filter((m) => m.available && m.kind !== 'embedding');
  return html`
    <span class="model-line">
      <select class="input small model-select" aria-label="Model in use" value=${model?.id ?? ''}
        onChange=${(/** @type {any} */ e) => { if (e.target.value) useModel(e.target.value); }}>
        ${!model && html`<option value="">No model chosen</option>`}
        ${model && !usable.includes(model) && html`<option value=${model.id}>${model.name}</option>`}
        ${usable.map((m) => html`<option key=${m.id} value=${m.id} selected=${m.id === model?.id}>${m.name}</option>`)}
      </select>
      ${model && html`<${ModelStateText} model=${model} idle="Loads with your first message" />`}
    </span>`;
}

function SystemPrompt() {
  const model = activeModel.value;
  const offered = model && settings.value.models?.[model.id]?.system_prompt;
  return html`
    <div class="system">
      <label class="field"><span>System prompt</span>
        <textarea class="input" rows="3" value=${systemPrompt.value} placeholder="How the model should behave in this chat"
          onInput=${(/** @type {any} */ e) => setSystemPrompt(e.target.value)}></textarea></label>
      ${offered && offered !== systemPrompt.value && html`
        <button type="button" class="button small quiet" onClick=${() => setSystemPrompt(offered)}>Use the one saved for ${model.name}</button>`}
    </div>`;
}

function Conversation() {
  const box = useRef(/** @type {any} */ (null));
  const stick = useRef(true);
  const [away, setAway] = useState(false);
  const list = messages.value;
  const onScroll = () => {
    const { scrollTop, clientHeight, scrollHeight } = box.current;
    stick.current = scrollHeight - scrollTop - clientHeight < AT_END_PX;
    if (away === stick.current) setAway(!stick.current);
  };
  const toEnd = () => { box.current.scrollTop = box.current.scrollHeight; };
  useLayoutEffect(() => { if (stick.current) toEnd(); }, [list]);
  useLayoutEffect(() => {
    stick.current = true;
    toEnd();
  }, [list.length]);
  return html`
    <div class="chat-box">
      <div ref=${box} class="chat-scroll" onScroll=${onScroll} tabIndex=${0} role="region" aria-label="Conversation">
        <div class="chat-column">
          ${list.length === 0 && html`<${ChatEmpty} />`}
          ${list.map((m, i) => html`<${ChatMessage} key=${m.id} message=${m} last=${i === list.length - 1} lastUser=${m.role === 'user' && i >= list.length - 2} />`)}
        </div>
      </div>
      ${away && list.length > 0 && html`<button type="button" class="to-end" aria-label="To the end" title="To the end" onClick=${toEnd}><${Icon} name="down" /></button>`}
    </div>`;
}

function ChatEmpty() {
  const model = activeModel.value;
  if (!model) {
    return html`<div class="chat-empty"><span class="first-mark"><${Icon} name="chat" /></span><h2>No model is in use</h2>
      <p class="muted">Pick one above, or go to <a href="#/models">Models</a>.</p></div>`;
  }
  return html`<div class="chat-empty"><span class="first-mark"><${Icon} name="chat" /></span><h2>Ask ${model.name}</h2>
    <p class="muted">${model.kind === 'embedding'
      ? 'This model makes vectors and does not chat. Pick a chat model above.'
      : 'Everything stays on this computer. The chat is forgotten when the window closes.'}</p></div>`;
}

function Composer() {
  const field = useRef(/** @type {any} */ (null));
  const base = gateway.value?.base_url ?? '';
  const open = gateway.value?.state === 'listening';
  const ready = Boolean(activeModel.value) && open;
  useEffect(() => { field.current?.focus({ preventScroll: true }); }, []);
  useLayoutEffect(() => { // grows with the text, up to the height app.css allows
    const { style } = field.current;
    style.height = 'auto';
    style.height = `${field.current.scrollHeight + 2}px`;
  }, [draft.value]);
  const submit = () => {
    if (!ready || streaming.value || !draft.value.trim()) return;
    const text = draft.value;
    draft.value = '';
    send(text, base);
  };
  /** @param {KeyboardEvent} event */
  const onKey = (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
    if (event.key === 'Escape' && streaming.value) stop();
  };
  return html`
    <form class="composer" onSubmit=${(/** @type {Event} */ e) => { e.preventDefault(); submit(); }}>
      <div class="composer-box">
        <textarea ref=${field} class="composer-input" rows="1" aria-label="Message" value=${draft.value}
          placeholder=${!activeModel.value ? 'Pick a model first' : !open ? 'The server does not listen' : 'Write a message'}
          onInput=${(/** @type {any} */ e) => { draft.value = e.target.value; }} onKeyDown=${onKey}></textarea>
        ${streaming.value
          ? html`<button type="button" class="send stop" aria-label="Stop (Esc)" title="Stop (Esc)" onClick=${stop}><${Icon} name="stop" /></button>`
          : html`<button type="submit" class="send" aria-label="Send (Enter)" title="Send (Enter)" disabled=${!ready || !draft.value.trim()}><${Icon} name="send" /></button>`}
      </div>
      <p class="muted hint composer-hint">Enter sends, Shift+Enter starts a new line.</p>
    </form>`;
}
