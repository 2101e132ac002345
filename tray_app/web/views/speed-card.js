// @ts-check
/** How much and how fast each model answers, over a day, a week or a month. */

import { html, useEffect, useRef, useState } from '../html.js';
import { attempt } from '../actions.js';
import { lastRequest, nameOf, statusById } from '../store.js';
import { countShort, DASH, duration, integer, plural, speed } from '../format.js';
import { bars, chartLabel, keptWords, rate, tokensWords } from '../usage-words.js';
import { BarChart } from '../components/bar-chart.js';
import { Card } from '../components/ui.js';

/** @typedef {import('../types.js').Usage} Usage */
/** @typedef {import('../types.js').ModelUsage} ModelUsage */

const SPANS = /** @type {const} */ ([[1, 'Day'], [7, 'Week'], [30, 'Month']]);
const SOON_MS = 250; // a burst of answers is one question
const APART_MS = 2000;
const AGAIN_MS = 60_000; // time moves on without a request, too

/**
 * The use over `days`; asked again after requests, at most every two seconds.
 * @param {number} days
 * @returns {Usage | null}
 */
function useUsage(days) {
  const [usage, setUsage] = useState(/** @type {Usage | null} */ (null));
  const ask = useRef(/** @type {() => void} */ (() => {}));
  useEffect(() => {
    let gone = false;
    let waiting = false;
    let askedAt = 0;
    const now = async () => {
      waiting = false;
      if (gone || document.hidden) return;
      askedAt = Date.now();
      const result = await attempt('usage', { days });
      if (!gone && result.ok) setUsage(result.value);
    };
    ask.current = () => {
      if (waiting) return;
      waiting = true;
      setTimeout(now, Math.max(SOON_MS, askedAt + APART_MS - Date.now()));
    };
    const seen = () => { if (!document.hidden) ask.current(); };
    now();
    const timer = setInterval(() => ask.current(), AGAIN_MS);
    document.addEventListener('visibilitychange', seen);
    return () => {
      gone = true;
      clearInterval(timer);
      document.removeEventListener('visibilitychange', seen);
    };
  }, [days]);
  const newest = lastRequest.value;
  const known = useRef(newest); // what the first answer counts already
  useEffect(() => {
    if (known.current !== newest) ask.current();
    known.current = newest;
  }, [newest]);
  return usage;
}

export function SpeedCard() {
  const [days, setDays] = useState(/** @type {number} */ (1));
  const usage = useUsage(days);
  const note = usage ? keptWords(usage) : '';
  return html`
    <${Card} title="Speed and use" class="wide" actions=${html`
      <div class="tabs" role="tablist" aria-label="Span of time">
        ${SPANS.map(([number, title]) => html`
          <button key=${number} type="button" role="tab" class="tab" aria-selected=${days === number} onClick=${() => setDays(number)}>${title}</button>`)}
      </div>`}>
      ${!usage || usage.models.length === 0
        ? html`<p class="muted nothing-line">${usage ? 'No request in this time. Speeds appear here with the first answer.' : 'Counting…'}</p>`
        : html`<${Speeds} usage=${usage} />`}
      ${note && html`<p class="muted hint">${note}</p>`}
    <//>`;
}

/** @param {{usage: Usage}} props */
const Speeds = ({ usage }) => html`
  <div class="table-box" tabIndex=${0} role="region" aria-label="Speed and use by model">
    <table class="table digits speeds">
      <thead><tr><th>Model</th>
        <th colSpan=${2} title="Tokens written a second, while writing">Tokens/s</th>
        <th class="num" title="Prompt tokens read a second, those from the cache left out">Prompt tokens/s</th>
        <th class="num" title="From the model being ready to the first token: half of all requests, and 19 of 20, waited at most this long">First token</th>
        <th colSpan=${2}>Requests</th><th class="num" title="Requests that wait for the model now">Queue</th><th class="num" title="Tokens read and written">Tokens</th></tr></thead>
      <tbody>${usage.models.map((model) => html`<${Row} key=${model.model_id} usage=${usage} model=${model} />`)}</tbody>
    </table>
  </div>`;

/** @param {{usage: Usage, model: ModelUsage}} props */
function Row({ usage, model }) {
  const by = usage.bucket_s < 86400 ? 'by the hour' : 'by day';
  const requests = (/** @type {number} */ count) => plural(count, 'request');
  const speeds = bars(usage, model, (bucket) => bucket.tokens_per_s, speed);
  const counts = bars(usage, model, (bucket) => bucket.requests, requests);
  const waiting = statusById.value.get(model.model_id)?.waiting ?? 0;
  return html`
    <tr><td class="cut" title=${model.model_id}>${nameOf(model.model_id)}</td>
      <td class="num strong">${rate(model.tokens_per_s)}</td>
      <td><${BarChart} bars=${speeds} label=${chartLabel(`Speed ${by}`, speeds, speed)} /></td>
      <td class="num">${rate(model.prompt_tokens_per_s)}</td>
      <td class="num">${duration(model.first_token_median_s)}${model.first_token_p95_s != null
        && html`<span class="muted"> / ${duration(model.first_token_p95_s)}</span>`}</td>
      <td class="num">${integer(model.requests)}${model.failed > 0 && html`<span class="bad-text"> (${integer(model.failed)} failed)</span>`}</td>
      <td><${BarChart} bars=${counts} label=${chartLabel(`Requests ${by}`, counts, requests)} /></td>
      <td class="num">${waiting || DASH}</td>
      <td class="num" title=${tokensWords(model)}>${countShort(model.prompt_tokens)} / ${countShort(model.generated_tokens)}</td>
    </tr>`;
}
