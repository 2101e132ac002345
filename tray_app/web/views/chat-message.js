// @ts-check
/** One message of the conversation, with what was measured about it. */

import { html } from '../html.js';
import { editLast, regenerate, streaming, waitingText } from '../chat-state.js';
import { gateway, nameOf } from '../store.js';
import { duration, plural, speed } from '../format.js';
import { Markdown } from '../components/markdown-view.js';
import { Callout, CopyButton, IconButton, Spinner } from '../components/ui.js';

/** @typedef {import('../chat-state.js').Message} Message */

/** @param {{message: Message, last: boolean, lastUser: boolean}} props */
export const ChatMessage = ({ message, last, lastUser }) => (message.role === 'user'
  ? html`
    <article class="msg user" aria-label="You">
      <div class="bubble">${message.content}</div>
      <div class="msg-tools">
        ${lastUser && !streaming.value && html`<${IconButton} icon="edit" label="Edit and ask again" onClick=${editLast} />`}
        <${CopyButton} text=${message.content} label="Copy message" />
      </div>
    </article>`
  : html`<${Answer} message=${message} last=${last} />`);

/** @param {{message: Message, last: boolean}} props */
function Answer({ message, last }) {
  const open = message.end === '';
  const waiting = open && !message.content && !message.reasoning;
  return html`
    <article class="msg assistant" aria-label=${`Answer of ${nameOf(message.model) || 'the model'}`} aria-busy=${open}>
      <p class="msg-from">${nameOf(message.model) || (open ? '' : 'Answer')}</p>
      ${message.reasoning && html`
        <details class="reasoning">
          <summary>${open && !message.content ? html`<${Spinner} /> Thinking` : 'Thoughts'}</summary>
          <div class="reasoning-text">${message.reasoning}</div>
        </details>`}
      ${waiting && html`<p class="state-line muted" role="status"><${Spinner} /> ${waitingText.value}…</p>`}
      ${message.content && html`<${Markdown} text=${message.content} />`}
      ${message.error && html`<${Callout} message=${message.error.message} remedy=${message.error.remedy} />`}
      <div class="msg-tools">
        ${!open && message.content && html`<${CopyButton} text=${message.content} label="Copy answer" />`}
        ${!open && last && html`<${IconButton} icon="refresh" label="Answer again" onClick=${() => regenerate(gateway.value?.base_url ?? '')} />`}
        <${Measured} message=${message} />
      </div>
    </article>`;
}

/** @param {{message: Message}} props */
function Measured({ message }) {
  if (message.first_token_s == null) return null;
  const parts = [
    message.tokens_per_s != null && speed(message.tokens_per_s),
    message.tokens != null && plural(message.tokens, 'token'),
    `first token after ${duration(message.first_token_s)}`,
    message.end === 'stopped' && 'stopped',
    message.end === 'length' && 'ended at its length limit',
  ];
  return html`<span class="measured muted digits">${parts.filter(Boolean).join(' · ')}</span>`;
}
