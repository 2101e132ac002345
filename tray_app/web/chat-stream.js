// @ts-check
/** One streamed answer from the gateway, as a sequence of small steps. Knows no signals, no DOM. */

/**
 * @typedef {{type: 'waiting', text: string}
 *   | {type: 'delta', content: string, reasoning: string, model: string}
 *   | {type: 'numbers', tokens: number | null, tokens_per_s: number | null}
 *   | {type: 'error', message: string, remedy: string}
 *   | {type: 'finish', reason: string}} Step
 */

/** Reads server-sent events from text that comes in any pieces. */
export class SseReader {
  #rest = '';
  #name = '';
  /** @type {string[]} */
  #data = [];

  /**
   * @param {string} piece
   * @returns {{kind: 'comment' | 'event', name: string, text: string}[]}
   */
  push(piece) {
    const found = [];
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line === '') {
        if (this.#data.length) found.push({ kind: /** @type {const} */ ('event'), name: this.#name, text: this.#data.join('\n') });
        this.#name = '';
        this.#data = [];
      } else if (line.startsWith(':')) {
        found.push({ kind: /** @type {const} */ ('comment'), name: '', text: line.slice(1).trim() });
      } else {
        const colon = line.indexOf(':');
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
        if (field === 'data') this.#data.push(value);
        else if (field === 'event') this.#name = value;
      }
    }
    return found;
  }
}

/**
 * @param {any} error an OpenAI error object, or text
 * @returns {Step}
 */
export function errorStep(error) {
  if (typeof error === 'string') return { type: 'error', message: error, remedy: '' };
  return {
    type: 'error',
    message: String(error?.message || 'The model gave no answer.'),
    remedy: String(error?.remedy || ''),
  };
}

/**
 * The steps of one parsed event of /v1/chat/completions.
 * @param {string} name
 * @param {string} text
 * @returns {Step[]}
 */
export function stepsOf(name, text) {
  if (text === '[DONE]') return [];
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    return name === 'error' ? [errorStep(text)] : [];
  }
  if (name === 'error' || data.error) return [errorStep(data.error ?? data)];
  /** @type {Step[]} */
  const steps = [];
  const choice = data.choices?.[0];
  const delta = choice?.delta ?? {};
  const content = delta.content ?? '';
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? '';
  if (content || reasoning) steps.push({ type: 'delta', content, reasoning, model: data.model ?? '' });
  if (data.timings || data.usage) {
    steps.push({
      type: 'numbers',
      tokens: data.timings?.predicted_n ?? data.usage?.completion_tokens ?? null,
      tokens_per_s: data.timings?.predicted_per_second ?? null,
    });
  }
  if (choice?.finish_reason) steps.push({ type: 'finish', reason: choice.finish_reason });
  return steps;
}

/**
 * @param {string} text body of an answer that is not 200
 * @param {number} status
 * @returns {Step}
 */
function refusal(text, status) {
  try {
    const data = JSON.parse(text);
    return errorStep(data.error ?? data);
  } catch {
    return errorStep(`The gateway answered with HTTP ${status}.`);
  }
}

/**
 * Streams one answer. Ends silently when `signal` is aborted.
 * @param {object} ask
 * @param {string} ask.baseUrl
 * @param {{role: string, content: string}[]} ask.messages
 * @param {AbortSignal} ask.signal
 * @param {string} [ask.model]
 * @param {string} [ask.apiKey] where the server asks for one
 * @param {typeof fetch} [ask.fetchFn] replaced in tests
 * @returns {AsyncGenerator<Step>}
 */
export async function* streamChat({ baseUrl, messages, signal, model = 'default', apiKey = '', fetchFn = fetch }) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  let response;
  try {
    response = await fetchFn(`${baseUrl}/chat/completions`, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json', Accept: 'text/event-stream', ...(apiKey && { Authorization: `Bearer ${apiKey}` }),
      },
      body: JSON.stringify(body),
      signal,
    });
    if (!response.ok || !response.body) {
      yield refusal(await response.text(), response.status);
      return;
    }
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const events = new SseReader();
    for (;;) {
      const { done, value } = await reader.read();
      for (const event of events.push(done ? '\n\n' : decoder.decode(value, { stream: true }))) {
        if (event.kind === 'comment') yield { type: 'waiting', text: event.text };
        else yield* stepsOf(event.name, event.text);
      }
      if (done) return;
    }
  } catch (error) {
    if (signal.aborted) return;
    const message = response ? 'The answer broke off.' : `No answer at ${baseUrl}.`;
    yield { type: 'error', message, remedy: 'Look at the server page: the gateway or the model may have stopped.' };
  }
}
