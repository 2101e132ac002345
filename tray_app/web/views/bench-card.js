// @ts-check
/** How fast one model reads and writes here: measured on a click, beside what was measured before. */

import { html, useEffect, useState } from '../html.js';
import { attempt, cancelJob, pending, run } from '../actions.js';
import { jobs, nameOf } from '../store.js';
import { integer, progressText } from '../format.js';
import { againstWords, notesOf, rowsOf, sinceWords, whereWords } from '../bench-words.js';
import { rate } from '../usage-words.js';
import { Ago, Callout, Progress } from '../components/ui.js';

/** @typedef {import('../types.js').Model} Model */
/** @typedef {import('../types.js').BenchHistory} BenchHistory */
/** @typedef {import('../types.js').ModelBench} ModelBench */

const KIND = 'bench_model';
const MOST_EARLIER = 10;

/**
 * What is known of a model; asked again when a measurement begins or ends.
 * @param {string} id
 * @returns {BenchHistory | null}
 */
function useBench(id) {
  const [known, setKnown] = useState(/** @type {{id: string, history: BenchHistory} | null} */ (null));
  const moved = jobs.value.filter((job) => job.kind === KIND).map((job) => `${job.id} ${job.state}`).join();
  useEffect(() => {
    let gone = false;
    attempt('bench_history', { model_id: id }).then((result) => {
      if (!gone && result.ok) setKnown({ id, history: result.value });
    });
    return () => { gone = true; };
  }, [id, moved]);
  return known?.id === id ? known.history : null;
}

/** @param {{model: Model}} props */
export function BenchCard({ model }) {
  const history = useBench(model.id);
  const [started, setStarted] = useState(/** @type {{model: string, job: string} | null} */ (null));
  const running = history?.running ?? null;
  const own = running?.model_id === model.id ? running.job_id : started?.model === model.id ? started.job : null;
  const job = jobs.value.find((each) => each.id === own) ?? null;
  const busy = job !== null && (job.state === 'running' || job.state === 'queued');
  const elsewhere = running !== null && running.model_id !== model.id;
  async function measure() {
    const result = await run(KIND, { model_id: model.id }, model.id);
    if (result.ok) setStarted({ model: model.id, job: result.value.job_id });
  }
  return html`
    <h3>Speed</h3>
    <div class="bench">
      ${busy ? html`<${Measuring} job=${job} />` : html`
        <div class="row-actions"><button type="button" class="button" title="Waits until nobody is answered; takes seconds to minutes"
          disabled=${!model.available || elsewhere || pending.value.has(`${KIND}:${model.id}`)} onClick=${measure}>Measure speed</button>
          ${elsewhere && html`<span class="muted hint">${nameOf(running.model_id)} is being measured.</span>`}</div>`}
      ${job?.state === 'failed' && html`<${Callout} message=${job.error?.message ?? 'It gave no reason.'} remedy=${job.error?.remedy} />`}
      ${history && (history.models.length
        ? html`<${Figures} bench=${history.models[0]} /><${Earlier} history=${history} />`
        : !busy && html`<p class="muted hint">Not measured yet. llama.cpp's own tool reads a prompt and writes, three times each.</p>`)}
    </div>`;
}

/** @param {{job: import('../types.js').Job}} props */
const Measuring = ({ job }) => html`
  <div class="bench-now">
    <${Progress} label="Measuring speed" value=${job.done} max=${job.total} />
    <p class="state-line"><span class="muted digits hint">${job.step || 'Waiting for its turn'}${job.total != null ? `, ${progressText(job.done, job.total, job.unit)}` : ''}</span>
      <button type="button" class="button small quiet" onClick=${() => cancelJob(job.id)}>Cancel</button></p>
  </div>`;

/** @param {{bench: ModelBench}} props */
const Figures = ({ bench }) => html`
  <table class="table digits" aria-label="Measured speed">
    <thead><tr><th></th><th class="num">Tokens/s</th><th class="num">Before</th><th class="num"></th></tr></thead>
    <tbody>${rowsOf(bench).map((row) => html`
      <tr key=${row.key}><td title=${row.title}>${row.name}</td><td class="num">${row.now}</td><td class="num">${row.before}</td>
        <td class="num bench-ratio" data-tone=${row.ratio.tone}>${row.ratio.text}</td></tr>`)}</tbody>
  </table>
  <p class="muted hint"><${Ago} at=${bench.newest.measured_at} /> ${whereWords(bench.newest)}. ${sinceWords(bench.previous)}</p>
  ${bench.runtimes.map((other) => html`<p key=${other.run.id} class="muted hint">${againstWords(other)}</p>`)}
  ${notesOf(bench.newest, nameOf).map((note) => html`<p key=${note} class="muted hint">${note}</p>`)}`;

/** @param {{history: BenchHistory}} props */
function Earlier({ history }) {
  const earlier = history.runs.slice(1, MOST_EARLIER + 1);
  if (!earlier.length) return null;
  return html`
    <details><summary>Earlier measurements</summary>
      <div class="table-box" tabIndex=${0} role="region" aria-label="Earlier measurements"><table class="table digits">
        <thead><tr><th>When</th><th class="num">Prompt</th><th class="num">Writing</th><th>Runtime</th></tr></thead>
        <tbody>${earlier.map((each) => html`
          <tr key=${each.id}><td><${Ago} at=${each.measured_at} /></td>
            <td class="num" title=${`${integer(each.prompt_tokens)} tokens`}>${rate(each.prompt?.tokens_per_s ?? null)}</td>
            <td class="num" title=${`${integer(each.generated_tokens)} tokens`}>${rate(each.generation?.tokens_per_s ?? null)}</td>
            <td class="cut" title=${each.device}>${each.runtime_id}</td></tr>`)}</tbody>
      </table></div></details>`;
}
