// @ts-check
/** Form fields with their label, hint, unit and error in one place. */

import { html, useEffect, useRef, useState } from '../html.js';

let lastId = 0;

function useId() {
  const [id] = useState(() => `field-${(lastId += 1)}`);
  return id;
}

/**
 * The engine names the setting in its message; this tells whether an error belongs to `key`.
 * @param {{message: string, remedy: string} | null} error
 * @param {string} key e.g. "server.port", or a last part such as "threads"
 * @returns {{message: string, remedy: string} | null}
 */
export function fieldError(error, key) {
  if (!error) return null;
  const named = error.message.split(/\s/, 1)[0].replace(/:$/, '');
  return named === key || named.endsWith(`.${key}`) ? error : null;
}

/**
 * @param {object} props
 * @param {string} props.label
 * @param {string} props.value
 * @param {(value: string) => void} [props.onInput] at every key
 * @param {(value: string) => void} [props.onCommit] when the field is left or Enter is pressed
 * @param {string} [props.hint]
 * @param {string} [props.unit]
 * @param {string} [props.type]
 * @param {string | number} [props.placeholder]
 * @param {{message: string, remedy: string} | null} [props.error]
 * @param {boolean} [props.multiline]
 * @param {boolean} [props.mono]
 * @param {boolean} [props.disabled]
 */
export function Field(props) {
  const id = useId();
  const { label, hint, unit, error } = props;
  const about = [hint && !error && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(' ');
  return html`
    <div class="field" data-bad=${Boolean(error)}>
      <label for=${id}>${label}</label>
      <div class="field-box"><${Box} ...${props} id=${id} about=${about} />${unit && html`<span class="unit">${unit}</span>`}</div>
      ${error && html`<p class="field-error" id=${`${id}-error`} role="alert">${inWords(error.message, label)} ${error.remedy}</p>`}
      ${hint && !error && html`<p class="muted hint" id=${`${id}-hint`}>${hint}</p>`}
    </div>`;
}

/** The engine names a setting by its key; here it has a label. @param {string} message @param {string} label */
const inWords = (message, label) => message.replace(/^\S+[._]\S+(?= (?:is|holds|must) )/, label);

/** @param {any} props */
function Box({ id, about, value, onInput, onCommit, type = 'text', placeholder, error, multiline, mono, disabled }) {
  const [own, setOwn] = useState(value);
  const touched = useRef(false);
  useEffect(() => { if (!touched.current) setOwn(value); }, [value]);
  const commit = () => {
    if (touched.current && onCommit && own !== value) onCommit(own);
    touched.current = false;
  };
  const shared = {
    id,
    class: mono ? 'input mono' : 'input',
    value: onCommit ? own : value,
    placeholder: placeholder == null ? undefined : String(placeholder),
    disabled,
    spellcheck: multiline ? undefined : false,
    autocomplete: 'off',
    'aria-invalid': error ? 'true' : undefined,
    'aria-describedby': about || undefined,
    onInput: (/** @type {any} */ event) => {
      touched.current = true;
      setOwn(event.target.value);
      onInput?.(event.target.value);
    },
    onBlur: commit,
    onKeyDown: (/** @type {KeyboardEvent} */ event) => { if (event.key === 'Enter' && !multiline) commit(); },
  };
  if (multiline) return html`<textarea rows="3" ...${shared}></textarea>`;
  return html`<input type=${type === 'number' ? 'text' : type} inputmode=${type === 'number' ? 'numeric' : undefined} ...${shared} />`;
}

/**
 * @param {{label: string, value: string, options: [string, string][], onChange: (value: string) => void, hint?: string,
 *   error?: {message: string, remedy: string} | null}} props
 */
export function Select({ label, value, options, onChange, hint, error }) {
  const id = useId();
  return html`
    <div class="field" data-bad=${Boolean(error)}>
      <label for=${id}>${label}</label>
      <select id=${id} class="input" value=${value} onChange=${(/** @type {any} */ e) => onChange(e.target.value)}>
        ${options.map(([key, title]) => html`<option key=${key} value=${key} selected=${key === value}>${title}</option>`)}
      </select>
      ${error && html`<p class="field-error" role="alert">${error.message} ${error.remedy}</p>`}
      ${hint && html`<p class="muted hint">${hint}</p>`}
    </div>`;
}

/** @param {{label: string, checked: boolean, onChange: (on: boolean) => void, hint?: string, disabled?: boolean}} props */
export function Switch({ label, checked, onChange, hint, disabled }) {
  return html`
    <label class="switch">
      <input type="checkbox" role="switch" checked=${checked} disabled=${disabled}
        onChange=${(/** @type {any} */ e) => onChange(e.target.checked)} />
      <span><span>${label}</span>${hint && html`<span class="muted hint">${hint}</span>`}</span>
    </label>`;
}

/**
 * @param {{label: string, name: string, value: string, options: [string, string][], onChange: (value: string) => void}} props
 */
export const Segments = ({ label, name, value, options, onChange }) => html`
  <fieldset class="segments-field"><legend>${label}</legend>
    <div class="segments">
      ${options.map(([key, title]) => html`
        <label key=${key} class="segment">
          <input type="radio" name=${name} value=${key} checked=${key === value} onChange=${() => onChange(key)} /><span>${title}</span>
        </label>`)}
    </div>
  </fieldset>`;
