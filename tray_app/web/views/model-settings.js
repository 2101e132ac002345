// @ts-check
/** One model's own settings. An empty field follows the server's setting, shown in grey. */

import { html, useEffect, useState } from '../html.js';
import { attempt, toast } from '../actions.js';
import { models, runtime } from '../store.js';
import { ANSWERS, changesOf, EXPERT, KEEPING, MEMORY, memoryWords, minutesText, NAMED, toForm } from '../model-form.js';
import { runtimeOptions } from '../runtime-words.js';
import { Field, fieldError, Select, Switch } from '../components/fields.js';
import { Callout } from '../components/ui.js';

/** @param {{model: import('../types.js').Model}} props */
export function ModelSettings({ model }) {
  const [before, setBefore] = useState(/** @type {Record<string, any> | null} */ (null));
  const [form, setForm] = useState(/** @type {Record<string, any>} */ ({}));
  const [effective, setEffective] = useState(/** @type {Record<string, any>} */ ({}));
  const [error, setError] = useState(/** @type {any} */ (null));
  const [saving, setSaving] = useState(false);

  async function read() {
    const result = await attempt('model_settings', { model_id: model.id });
    if (!result.ok) {
      setError(result.error);
      return;
    }
    const fields = toForm(result.value.own ?? {});
    setEffective(result.value.effective ?? {});
    setBefore(fields);
    setForm(fields);
    setError(null);
  }
  useEffect(() => { read(); }, [model.id]);

  if (!before) return error ? html`<${Callout} message=${error.message} remedy=${error.remedy} />` : null;
  const changes = changesOf(form, before);
  const dirty = Object.keys(changes).length > 0;
  /** @param {string} key */
  const set = (key) => (/** @type {any} */ value) => setForm({ ...form, [key]: value });

  /** @param {Event} event */
  async function save(event) {
    event.preventDefault();
    setSaving(true);
    const result = await attempt('change_model_settings', { model_id: model.id, changes });
    setSaving(false);
    if (!result.ok) {
      setError(result.error);
      return;
    }
    toast('ok', 'Saved. It applies the next time the model loads.');
    await read();
  }

  const keys = [...NAMED, 'extra_args', 'system_prompt', 'runtime'];
  const placed = keys.some((key) => fieldError(error, key));
  /** @param {import('../model-form.js').Wish[]} wishes */
  const fields = (wishes) => wishes.map((wish) => html`
    <${WishField} key=${wish.key} wish=${wish} model=${model} value=${form[wish.key]} effective=${effective[wish.key]}
      onInput=${set(wish.key)} error=${fieldError(error, wish.key)} />`);
  /** A part that holds something, or a refusal, is open. @param {import('../model-form.js').Wish[]} wishes */
  const used = (wishes) => wishes.some(({ key }) => before[key] !== '' || fieldError(error, key));
  return html`
    <form class="form" onSubmit=${save} noValidate>
      <div class="form-pair">${fields(MEMORY)}${fields(KEEPING)}</div>
      <${Switch} label="Leave memory as soon as nobody uses it" checked=${form.never_keep} onChange=${set('never_keep')} />
      ${(model.mmproj_path || before.mmproj_path) && html`<${Switch} label="Read images with its projector" checked=${form.mmproj} onChange=${set('mmproj')} />`}
      <${Field} label="System prompt" hint="Offered by the chat page." multiline value=${form.system_prompt}
        onInput=${set('system_prompt')} error=${fieldError(error, 'system_prompt')} />
      <details class="more" open=${used(ANSWERS)}><summary>How it answers</summary><div class="form-pair">${fields(ANSWERS)}</div></details>
      <details class="more" open=${used(EXPERT) || before.extra_args !== '' || before.runtime !== '' || fieldError(error, 'extra_args')}>
        <summary>For experts</summary>
        <div class="form">
          <div class="form-pair">${fields(EXPERT)}</div>
          ${runtime.value && html`<${Select} label="Runtime" value=${form.runtime} options=${runtimeOptions(runtime.value, form.runtime)}
            hint="Which llama.cpp runs this model." onChange=${set('runtime')} error=${fieldError(error, 'runtime')} />`}
          <${Field} label="Extra arguments" hint="Added to llama-server's command line." mono value=${form.extra_args}
            placeholder="--swa-full" onInput=${set('extra_args')} error=${fieldError(error, 'extra_args')} />
        </div>
      </details>
      <${MemoryLine} modelId=${model.id} changes=${changes} />
      ${error && !placed && html`<${Callout} message=${error.message} remedy=${error.remedy} />`}
      <div class="form-actions">
        <button type="submit" class="button primary" disabled=${!dirty || saving}>Save</button>
        <button type="button" class="button quiet" disabled=${!dirty || saving}
          onClick=${() => { setForm(before); setError(null); }}>Undo changes</button>
      </div>
    </form>`;
}

const ASK_MS = 250;

/** What these settings come to, while they are typed. @param {{modelId: string, changes: Record<string, any>}} props */
function MemoryLine({ modelId, changes }) {
  const [told, setTold] = useState(/** @type {import('../types.js').ModelMemory | null} */ (null));
  const asked = JSON.stringify(changes);
  useEffect(() => {
    let gone = false;
    const timer = setTimeout(async () => {
      const result = await attempt('model_memory', { model_id: modelId, changes: JSON.parse(asked) });
      if (!gone) setTold(result.ok ? result.value : null);
    }, ASK_MS);
    return () => { gone = true; clearTimeout(timer); };
  }, [modelId, asked]);
  return html`<p class="memory-line digits muted" role="status">${told && memoryWords(told)}</p>`;
}

/**
 * @param {{wish: import('../model-form.js').Wish, model: import('../types.js').Model, value: string, effective: any,
 *   onInput: (value: string) => void, error: any}} props
 */
function WishField({ wish, model, value, effective, onInput, error }) {
  const { label, hint, unit, kind } = wish;
  if (kind === 'choice' || kind === 'draft') {
    const others = models.value.filter((m) => m.id !== model.id && m.size_bytes < model.size_bytes);
    const options = kind === 'choice' ? [...(wish.options ?? [])] : [['', 'None'], ...others.map((m) => [m.id, m.name])];
    if (!options.some(([key]) => key === value)) options.push([value, value]);
    return html`<${Select} label=${label} hint=${hint} value=${value} options=${options} onChange=${onInput} error=${error} />`;
  }
  const shown = kind === 'minutes' ? minutesText(effective) : typeof effective === 'object' ? '' : effective;
  return html`
    <${Field} label=${label} unit=${unit} hint=${hint} type=${kind === 'number' || kind === 'minutes' ? 'number' : 'text'} value=${value}
      multiline=${kind === 'adapters'} mono=${kind === 'adapters'} placeholder=${shown || (wish.empty ?? (kind === 'adapters' ? '' : 'automatic'))}
      onInput=${onInput} error=${error} />`;
}
