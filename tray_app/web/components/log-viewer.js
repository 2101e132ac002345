// @ts-check
/** A log file that follows its end, with search, levels, pause and copy. */

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from '../html.js';
import { attempt } from '../actions.js';
import { bytes, integer, plural } from '../format.js';
import { addText, chosenLines, emptyLog, graveCounts, marked } from '../log-lines.js';
import { Icon } from './icons.js';
import { Card, CopyButton } from './ui.js';
import { VirtualList } from './virtual-list.js';

const LINE_HEIGHT = 20; // px; --log-line in tokens.css
const POLL_MS = 1000;
const AT_END_PX = 24;
const TAB = ' '.repeat(8);

/**
 * Reads a log from its tail on, about once a second while `follow` and the page is visible.
 * @param {string} name
 * @param {boolean} follow
 */
function useLog(name, follow) {
  const [state, setState] = useState(emptyLog);
  const [error, setError] = useState(/** @type {any} */ (null));
  const offset = useRef(/** @type {number | null} */ (null));
  useEffect(() => {
    offset.current = null;
    setState(emptyLog());
    setError(null);
  }, [name]);
  useEffect(() => {
    if (!name) return undefined;
    let gone = false;
    let timer = /** @type {any} */ (0);
    const read = async () => {
      if (!document.hidden) {
        const result = await attempt('read_log', { name, offset: offset.current, max_bytes: 65536 });
        if (gone) return;
        if (result.ok) {
          const { text, start_offset: start, next_offset: next, size_bytes: size } = result.value;
          // The log was cut or begun anew: the engine goes on at its tail, and half a line is lost.
          const anew = offset.current !== null && start !== offset.current;
          const ahead = next > (offset.current ?? -1) || anew;
          offset.current = next;
          if (text) setState((old) => addText(anew ? { ...old, rest: '' } : old, text));
          setError(null);
          if (ahead && next < size) {
            timer = setTimeout(read, 50); // behind: catch up
            return;
          }
        } else setError(result.error);
      }
      if (follow) timer = setTimeout(read, POLL_MS);
    };
    read();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [name, follow]);
  return { lines: state.lines, error };
}

/** @param {string} text @param {string} query */
const pieces = (text, query) => (query ? marked(text, query).map((piece, i) => (i % 2 ? html`<mark key=${i}>${piece}</mark>` : piece)) : text);

/** @param {{name: string, rows?: number}} props `rows`: height in lines */
export function LogView({ name, rows = 16 }) {
  const [follow, setFollow] = useState(true);
  const [query, setQuery] = useState('');
  const [least, setLeast] = useState(/** @type {import('../log-lines.js').Least} */ ('all'));
  const box = useRef(/** @type {any} */ (null));
  const { lines, error } = useLog(name, follow);
  const shown = useMemo(() => chosenLines(lines, query, least), [lines, query, least]);
  const { warnings, errors } = useMemo(() => graveCounts(lines), [lines]);
  const part = shown !== lines;
  const columns = useMemo(() => shown.reduce((most, line) => Math.max(most, line.text.replaceAll('\t', TAB).length), 0), [shown]);
  useLayoutEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown, follow]);
  const onScroll = () => {
    const { scrollTop, clientHeight, scrollHeight } = box.current;
    if (follow && scrollHeight - scrollTop - clientHeight > AT_END_PX * 3 && box.current.matches(':hover, :focus')) setFollow(false);
  };
  return html`
    <div class="log">
      <div class="log-tools">
        <label class="search small"><${Icon} name="search" /><input type="search" class="input" placeholder="Search the log" aria-label="Search the log"
          value=${query} onInput=${(/** @type {any} */ e) => setQuery(e.target.value)} /></label>
        <select class="input small" aria-label="Levels shown" value=${least} onChange=${(/** @type {any} */ e) => setLeast(e.target.value)}>
          <option value="all">All levels</option>
          <option value="info">Without debug</option>
          <option value="warning">Warnings and errors</option>
          <option value="error">Errors</option>
        </select>
        <span class="muted digits log-count">${part && `${integer(shown.length)} of `}${plural(lines.length, 'line')}
          ${errors > 0 && html` · <span class="bad-text">${plural(errors, 'error')}</span>`}${warnings > 0 && ` · ${plural(warnings, 'warning')}`}</span>
        <button type="button" class="button small quiet follow" aria-pressed=${follow} onClick=${() => setFollow(!follow)}>
          <${Icon} name=${follow ? 'pause' : 'play'} /><span>${follow ? 'Pause' : 'Follow'}</span></button>
        <${CopyButton} words label="Copy" text=${() => shown.map((line) => line.text).join('\n')} />
      </div>
      ${error ? html`<p class="muted log-box nothing-line">${error.message} ${error.remedy}</p>`
        : part && shown.length === 0 ? html`<p class="muted log-box nothing-line" role="region" aria-label=${`Log ${name}`}>No line matches.</p>` : html`
        <${VirtualList} boxRef=${box} class="log-box" items=${shown} rowHeight=${LINE_HEIGHT} keyOf=${(/** @type {any} */ l) => l.id}
          box=${{ onScroll, tabIndex: 0, role: 'region', 'aria-label': `Log ${name}`, style: { height: `${rows * LINE_HEIGHT + 16}px` } }}
          inner=${{ style: { width: `calc(${columns}ch + 2 * var(--space-3))` } }}
          row=${(/** @type {any} */ line) => html`<div class="log-line" data-level=${line.level}>${pieces(line.text, query)}</div>`} />`}
    </div>`;
}

/** All logs of the engine, one at a time. */
export function LogCard() {
  const [files, setFiles] = useState(/** @type {{name: string, size_bytes: number, modified_at: number}[]} */ ([]));
  const [chosen, setChosen] = useState('');
  useEffect(() => {
    let gone = false;
    const ask = async () => {
      if (document.hidden) return;
      const result = await attempt('list_logs');
      if (!gone && result.ok) setFiles([...result.value].sort((a, b) => b.modified_at - a.modified_at));
    };
    ask();
    const timer = setInterval(ask, 10_000);
    return () => {
      gone = true;
      clearInterval(timer);
    };
  }, []);
  const name = files.some((file) => file.name === chosen) ? chosen : files[0]?.name ?? '';
  useEffect(() => { if (!chosen && name) setChosen(name); }, [name]);
  return html`
    <${Card} title="Log" class="wide" actions=${files.length > 0 && html`
      <select class="input small" aria-label="Log file" value=${name} onChange=${(/** @type {any} */ e) => setChosen(e.target.value)}>
        ${files.map((file) => html`<option key=${file.name} value=${file.name}>${file.name} (${bytes(file.size_bytes)})</option>`)}
      </select>`}>
      ${name ? html`<${LogView} name=${name} />` : html`<p class="muted nothing-line">Nothing was written yet.</p>`}
    <//>`;
}
