// @ts-check
/** One model's own settings. An empty field follows the server's setting, shown in grey. */

import { html, useEffect, useState } from '../html.js';
import { attempt, toast } from '../actions.js';
import { runtime } from '../store.js';
import { joinArgs, splitArgs } from '../format.js';
import { runtimeOptions } from '../runtime-words.js';
import { Field, fieldError, Select, Switch } from '../components/fields.js';
import { Callout } from '../components/ui.js';

const NUMBERS = /** @type {const} */ ({
  context_length: ['Context length', 'tokens', 'How much text it can keep in view. More takes more memory.'],
  gpu_layers: ['GPU layers', 'layers', 'Empty: as many as fit.'],
  threads: ['Threads', '', 'Empty: llama.cpp decides.'],
  parallel: ['Requests at once', 'slots', 'Empty: llama.cpp decides.'],
});

/** @param {any} own the model's own table @returns {Record<string, any>} text for every field */
function toForm(own) {
  return {
    ...Object.fromEntries(Object.keys(NUMBERS).map((key) => [key, own[key] == null ? '' : String(own[key])])),
    extra_args: joinArgs(own.extra_args ?? []),
    system_prompt: own.system_prompt ?? '',
    mmproj: own.mmproj ?? true,
    runtime: own.runtime ?? '',
  };
}

/**
 * @param {Record<string, any>} form
 * @param {Record<string, any>} before
 * @returns {Record<string, any>} only what changed; null takes a wish back
 */
export function changesOf(form, before) {
  /** @type {Record<string, any>} */
  const changes = {};
  for (const [key, value] of Object.entries(form)) {
    if (value === before[key]) continue;
    if (key in NUMBERS) changes[key] = value.trim() === '' ? null : Number(value);
    else if (key === 'extra_args') changes[key] = splitArgs(value);
    else changes[key] = value === '' ? null : value;
  }
  return changes;
}

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

  const keys = [...Object.keys(NUMBERS), 'extra_args', 'system_prompt', 'runtime'];
  const placed = keys.some((key) => fieldError(error, key));
  return html`
    <form class="form" onSubmit=${save} noValidate>
      <div class="form-pair">
        ${Object.entries(NUMBERS).map(([key, [title, unit, hint]]) => html`
          <${Field} key=${key} label=${title} unit=${unit} hint=${hint} type="number" value=${form[key]}
            placeholder=${effective[key] ?? 'automatic'} onInput=${set(key)} error=${fieldError(error, key)} />`)}
      </div>
      ${runtime.value && html`<${Select} label="Runtime" value=${form.runtime} options=${runtimeOptions(runtime.value, form.runtime)}
        hint="Which llama.cpp runs this model." onChange=${set('runtime')} error=${fieldError(error, 'runtime')} />`}
      <${Field} label="System prompt" hint="Offered by the chat page." multiline value=${form.system_prompt}
        onInput=${set('system_prompt')} error=${fieldError(error, 'system_prompt')} />
      <${Field} label="Extra arguments" hint="Added to llama-server's command line." mono value=${form.extra_args}
        placeholder="--flash-attn on" onInput=${set('extra_args')} error=${fieldError(error, 'extra_args')} />
      ${model.mmproj_path && html`<${Switch} label="Read images with its projector" checked=${form.mmproj} onChange=${set('mmproj')} />`}
      ${error && !placed && html`<${Callout} message=${error.message} remedy=${error.remedy} />`}
      <div class="form-actions">
        <button type="submit" class="button primary" disabled=${!dirty || saving}>Save</button>
        <button type="button" class="button quiet" disabled=${!dirty || saving}
          onClick=${() => { setForm(before); setError(null); }}>Undo changes</button>
      </div>
    </form>`;
}
