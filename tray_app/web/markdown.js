// @ts-check
/**
 * A small part of Markdown, read into plain objects that components draw as elements. Text from
 * a model is never made into HTML. Every pass is linear, so hostile text cannot stall the page.
 *
 * @typedef {{type: 'text' | 'code', text: string}} Leaf
 * @typedef {{type: 'strong' | 'em' | 'del', children: Inline[]}} Span
 * @typedef {{type: 'link', children: Inline[], url: string}} LinkSpan
 * @typedef {Leaf | Span | LinkSpan} Inline
 *
 * @typedef {{type: 'code', language: string, text: string, open: boolean}} CodeBlock
 * @typedef {{type: 'heading', level: number, children: Inline[]}} Heading
 * @typedef {{type: 'paragraph', children: Inline[]}} Paragraph
 * @typedef {{type: 'list', ordered: boolean, start: number, items: Block[][]}} List
 * @typedef {{type: 'quote', children: Block[]}} Quote
 * @typedef {{type: 'table', head: Inline[][], rows: Inline[][][]}} Table
 * @typedef {{type: 'rule'}} Rule
 * @typedef {CodeBlock | Heading | Paragraph | List | Quote | Table | Rule} Block
 */

const DEEPEST = 6; // nested lists, quotes and spans beyond this are shown as text

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}(?:-[ \t]*){3,}$|^ {0,3}(?:\*[ \t]*){3,}$|^ {0,3}(?:_[ \t]*){3,}$/;
const ITEM = /^( *)(?:[-*+]|(\d{1,9})[.)])[ \t]+(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const TABLE_LINE = /^ *\|?(?: *:?-+:? *\|)+ *:?-* *:?$/;

/**
 * @param {string} source
 * @returns {Block[]}
 */
export function parse(source) {
  return blocks(source.replace(/\r\n?/g, '\n').replace(/\t/g, '    ').split('\n'), 0);
}

/**
 * @param {string[]} lines
 * @param {number} depth
 * @returns {Block[]}
 */
function blocks(lines, depth) {
  /** @type {Block[]} */
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, next] = readBlock(lines, at, depth);
    found.push(block);
    at = next;
  }
  return found;
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[Block, number]} the block and the first line after it
 */
function readBlock(lines, at, depth) {
  const line = lines[at];
  const fence = line.match(FENCE);
  if (fence) return readFence(lines, at, fence[1], fence[2]);
  const heading = line.match(HEADING);
  if (heading) {
    const text = heading[2].replace(/ +#+ *$/, '');
    return [{ type: 'heading', level: heading[1].length, children: inline(text) }, at + 1];
  }
  if (line.length < 200 && RULE.test(line)) return [{ type: 'rule' }, at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return readList(lines, at, depth);
  if (isTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {string} mark
 * @param {string} language
 * @returns {[CodeBlock, number]} `open` while the closing fence has not come (streaming)
 */
function readFence(lines, at, mark, language) {
  const indent = lines[at].length - lines[at].trimStart().length;
  const body = [];
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const bare = lines[end].trim();
    if (bare.length >= mark.length && bare === mark[0].repeat(bare.length)) break;
    body.push(lines[end].slice(Math.min(indent, lines[end].length - lines[end].trimStart().length)));
  }
  const open = end >= lines.length;
  return [{ type: 'code', language, text: body.join('\n'), open }, open ? end : end + 1];
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[Quote, number]}
 */
function readQuote(lines, at, depth) {
  const inner = [];
  let end = at;
  for (let match; end < lines.length && (match = lines[end].match(QUOTE)); end += 1) inner.push(match[1]);
  return [{ type: 'quote', children: blocks(inner, depth + 1) }, end];
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[List, number]}
 */
function readList(lines, at, depth) {
  const first = /** @type {RegExpMatchArray} */ (lines[at].match(ITEM));
  const base = first[1].length;
  const ordered = first[2] !== undefined;
  /** @type {string[][]} */
  const items = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const match = line.match(ITEM);
    if (match && match[1].length <= base + 1) {
      if ((match[2] !== undefined) !== ordered || match[1].length < base) break;
      items.push([match[3]]);
    } else if (!line.trim()) {
      const next = lines[end + 1];
      if (next === undefined || !(ITEM.test(next) || /^ {2,}\S/.test(next))) break;
      items[items.length - 1].push('');
    } else if (line.length - line.trimStart().length > base || !startsBlock(line)) {
      items[items.length - 1].push(dedent(line, base + 2));
    } else break;
  }
  const start = ordered ? Number(first[2]) : 1;
  return [{ type: 'list', ordered, start, items: items.map((item) => blocks(item, depth + 1)) }, end];
}

/**
 * @param {string} line
 * @param {number} most
 */
const dedent = (line, most) => line.slice(Math.min(most, line.length - line.trimStart().length));

/** @param {string} line */
const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || ITEM.test(line);

/**
 * @param {string[]} lines
 * @param {number} at
 */
function isTable(lines, at) {
  const under = lines[at + 1];
  return lines[at].includes('|') && under !== undefined && under.length < 1000 && TABLE_LINE.test(under);
}

/** @param {string} line @returns {Inline[][]} */
function cells(line) {
  const bare = line.trim().replace(/^\|/, '').replace(/\|$/, '');
  return bare.split('|').map((cell) => inline(cell.trim()));
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {[Table, number]}
 */
function readTable(lines, at) {
  const head = cells(lines[at]);
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes('|'); end += 1) rows.push(cells(lines[end]).slice(0, head.length));
  return [{ type: 'table', head, rows }, end];
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {[Paragraph, number]}
 */
function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !startsBlock(lines[end]) && !isTable(lines, end)) end += 1;
  return [{ type: 'paragraph', children: inline(lines.slice(at, end).map((l) => l.trim()).join('\n')) }, end];
}

const MARKS = /** @type {const} */ ([['**', 'strong'], ['__', 'strong'], ['~~', 'del'], ['*', 'em'], ['_', 'em']]);
const SPECIAL = /[`*_~[\\h]/g;
const BARE_URL = /https?:\/\/[^\s<>()[\]`"']+/y;
const LINK = /\[([^[\]\n]{1,500})\]\(((?:[^()\s]|\([^()\s]{0,200}\)){1,2000})\)/y;
const WORD = /[\p{L}\p{N}]/u;

/**
 * @param {string} text
 * @param {number} [depth]
 * @returns {Inline[]}
 */
export function inline(text, depth = 0) {
  /** @type {Inline[]} */
  const out = [];
  const missing = new Set(); // marks that close nowhere further on, so that none is sought twice
  let plain = '';
  let at = 0;
  const flush = () => {
    if (plain) out.push({ type: 'text', text: plain });
    plain = '';
  };
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const stop = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, stop);
    if (stop === text.length) break;
    const hit = depth < DEEPEST ? readSpan(text, stop, depth, missing) : null;
    if (hit) {
      flush();
      out.push(hit.node);
      at = hit.end;
    } else {
      const escaped = text[stop] === '\\' && /[\\`*_~[\]#>|()-]/.test(text[stop + 1] ?? '');
      const run = escaped ? 1 : runLength(text, stop);
      plain += escaped ? text[stop + 1] : text.slice(stop, stop + run);
      at = stop + (escaped ? 2 : run);
    }
  }
  flush();
  return out;
}

/** @param {string} text @param {number} at @returns {number} how often text[at] repeats */
function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at] && text[at] !== 'h' && text[at] !== '[') end += 1;
  return end - at;
}

/**
 * @param {string} text
 * @param {number} at
 * @param {number} depth
 * @param {Set<string>} missing
 * @returns {{node: Inline, end: number} | null}
 */
function readSpan(text, at, depth, missing) {
  const char = text[at];
  if (char === '`') return readCode(text, at, missing);
  if (char === 'h') return readUrl(text, at);
  if (char === '[') {
    LINK.lastIndex = at;
    const match = LINK.exec(text);
    if (!match) return null;
    return { node: { type: 'link', children: inline(match[1], depth + 1), url: match[2] }, end: LINK.lastIndex };
  }
  for (const [mark, type] of MARKS) {
    if (!text.startsWith(mark, at) || missing.has(mark)) continue;
    const end = closing(text, at, mark);
    if (end === 0) continue;
    if (end < 0) {
      missing.add(mark);
      continue;
    }
    return { node: { type, children: inline(text.slice(at + mark.length, end), depth + 1) }, end: end + mark.length };
  }
  return null;
}

/**
 * @param {string} text
 * @param {number} at
 * @param {string} mark
 * @returns {number} where `mark` closes; -1: nowhere further on; 0: it opens nothing here
 */
function closing(text, at, mark) {
  const from = at + mark.length;
  if (!text[from] || /\s/.test(text[from]) || text[from] === mark[0]) return 0;
  if (mark[0] === '_' && at > 0 && WORD.test(text[at - 1])) return 0; // snake_case is no emphasis
  for (let tries = 0, end = text.indexOf(mark, from); tries < 20; tries += 1) {
    if (end < 0) return -1;
    const after = text[end + mark.length];
    const lone = mark.length === 2 || (after !== mark && text[end - 1] !== mark);
    const inWord = mark[0] === '_' && after !== undefined && WORD.test(after);
    if (lone && !inWord && !/\s/.test(text[end - 1])) {
      // **a *b*** closes at the outer pair
      return mark.length === 2 && after === mark[0] && text[end + 3] !== mark[0] ? end + 1 : end;
    }
    end = text.indexOf(mark, end + 1 + (after === mark ? 1 : 0));
  }
  return 0;
}

/**
 * @param {string} text
 * @param {number} at
 * @param {Set<string>} missing
 */
function readCode(text, at, missing) {
  const ticks = '`'.repeat(runLength(text, at));
  if (missing.has(ticks)) return null;
  let end = text.indexOf(ticks, at + ticks.length);
  while (end >= 0 && text[end + ticks.length] === '`') end = text.indexOf(ticks, end + runLength(text, end));
  if (end < 0) {
    missing.add(ticks);
    return null;
  }
  const body = text.slice(at + ticks.length, end);
  const padded = body.length > 2 && body.startsWith(' ') && body.endsWith(' ');
  const node = /** @type {Leaf} */ ({ type: 'code', text: padded ? body.slice(1, -1) : body });
  return { node, end: end + ticks.length };
}

/**
 * @param {string} text
 * @param {number} at
 */
function readUrl(text, at) {
  BARE_URL.lastIndex = at;
  const match = BARE_URL.exec(text);
  if (!match || (at > 0 && WORD.test(text[at - 1]))) return null;
  const url = match[0].replace(/[.,;:!?*_~]+$/, '');
  const node = /** @type {LinkSpan} */ ({ type: 'link', children: [{ type: 'text', text: url }], url });
  return { node, end: at + url.length };
}
