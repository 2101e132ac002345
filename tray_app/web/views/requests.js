// @ts-check
/** The last requests as the gateway saw them. */

import { html, useEffect, useState } from '../html.js';
import { attempt } from '../actions.js';
import { lastRequest, nameOf } from '../store.js';
import { duration, integer, speed } from '../format.js';
import { Ago, Badge, Card } from '../components/ui.js';

const LIMIT = 50;

export function Requests() {
  const [rows, setRows] = useState(/** @type {import('../types.js').RequestRecord[]} */ ([]));
  const newest = lastRequest.value;
  useEffect(() => {
    let gone = false;
    const timer = setTimeout(async () => {
      const result = await attempt('request_history', { limit: LIMIT });
      if (!gone && result.ok) setRows([...result.value].sort((a, b) => b.started_at - a.started_at));
    }, 250); // a burst of answers is one question
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [newest]);
  return html`
    <${Card} title="Last requests" class="wide">
      ${rows.length === 0 ? html`<p class="muted nothing-line">None yet. They appear here with their speed.</p>` : html`
        <div class="table-box" tabIndex=${0} role="region" aria-label="Last requests">
          <table class="table digits">
            <thead><tr><th>When</th><th>Model</th><th>Path</th><th>Status</th><th class="num" title="Time until the first token">First token</th>
              <th class="num">Speed</th><th class="num" title="Tokens read and written">Tokens</th><th class="num" title="Time spent waiting until the model was ready">Waited</th><th class="num">Took</th></tr></thead>
            <tbody>
              ${rows.map((r) => html`
                <tr key=${`${r.started_at}:${r.model_id}:${r.duration_s}`}>
                  <td><${Ago} at=${r.started_at} /></td><td class="cut" title=${r.model_id}>${nameOf(r.model_id)}</td>
                  <td class="mono">${r.path}</td>
                  <td><${Badge} tone=${r.status < 400 ? 'ok' : 'bad'}>${r.status}<//></td>
                  <td class="num">${duration(r.first_token_s)}</td><td class="num">${speed(r.tokens_per_s)}</td>
                  <td class="num">${integer(r.prompt_tokens)} / ${integer(r.generated_tokens)}</td>
                  <td class="num">${r.wait_s >= 0.01 ? duration(r.wait_s) : '–'}</td><td class="num">${duration(r.duration_s)}</td>
                </tr>`)}
            </tbody>
          </table>
        </div>`}
    <//>`;
}
