// @ts-check
/** What the Discover page asks and shows. Late answers to older questions are dropped. */

import { batch, signal } from './html.js';

/** @typedef {import('./types.js').HubModel} HubModel */
/** @typedef {import('./types.js').RepoDetails} RepoDetails */
/** @typedef {{code: string, message: string, remedy: string}} Refusal */
/** @typedef {(name: string, args: Record<string, unknown>) => Promise<{ok: true, value: any} | {ok: false, error: Refusal}>} Ask */

export const SORTS = /** @type {const} */ ({
  trendingScore: 'Trending', downloads: 'Downloads', likes: 'Likes', lastModified: 'Recently updated',
});
/** Tags of the Hub, beside "gguf". */
export const KINDS = /** @type {const} */ ({
  '': 'All', 'text-generation': 'Chat', 'image-text-to-text': 'Vision', 'feature-extraction': 'Embedding',
});
export const SOON_MS = 350;
const KEPT = 40; // answers remembered while the page lives

/** @param {Ask} ask @param {{later?: (act: () => void, ms: number) => unknown, cancel?: (timer: any) => void}} [clock] */
export function createDiscover(ask, { later = setTimeout, cancel = clearTimeout } = {}) {
  const query = signal('');
  const sort = signal(/** @type {keyof typeof SORTS} */ ('trendingScore'));
  const kind = signal(/** @type {keyof typeof KINDS} */ (''));
  const found = signal(/** @type {HubModel[] | null} */ (null));
  const asking = signal(false);
  const error = signal(/** @type {Refusal | null} */ (null));
  const suggested = signal(/** @type {import('./types.js').Suggested | null} */ (null));
  /** @type {Map<string, any>} */
  const known = new Map();
  let latest = 0;
  /** @type {unknown} */
  let timer = null;

  async function search() {
    latest += 1;
    const number = latest;
    if (isAddress(query.value)) {
      batch(() => { asking.value = false; error.value = null; });
      return;
    }
    const args = { query: query.value.trim(), sort: sort.value, filter: kind.value ? `gguf,${kind.value}` : 'gguf', limit: 30 };
    const key = JSON.stringify(args);
    if (known.has(key)) {
      batch(() => { found.value = known.get(key); error.value = null; asking.value = false; });
      return;
    }
    asking.value = true;
    const result = await ask('search_models', args);
    if (number !== latest) return;
    batch(() => {
      asking.value = false;
      error.value = result.ok ? null : result.error;
      found.value = result.ok ? result.value.models : null;
    });
    if (result.ok) keep(known, key, result.value.models);
  }

  function soon() {
    cancel(/** @type {any} */ (timer));
    timer = later(search, SOON_MS);
  }

  async function begin() {
    const [first] = await Promise.all([
      suggested.value ? null : ask('suggested_models', {}),
      found.value ? null : search(),
    ]);
    if (first?.ok) suggested.value = first.value;
  }

  return {
    query, sort, kind, found, asking, error, suggested, begin, search,
    /** @param {string} text */
    type(text) { query.value = text; soon(); },
    /** @param {keyof typeof SORTS} value */
    sortBy(value) { sort.value = value; search(); },
    /** @param {keyof typeof KINDS} value */
    show(value) { kind.value = value; search(); },
  };
}

/** @param {Map<string, any>} map @param {string} key @param {any} value */
function keep(map, key, value) {
  map.set(key, value);
  if (map.size > KEPT) map.delete(/** @type {string} */ (map.keys().next().value));
}

/** @param {string} text @returns {boolean} whether it is an address, which no search finds */
export const isAddress = (text) => /^(https?:\/\/|(hf\.co|huggingface\.co|ollama\.com)\/)/i.test(text.trim());

/**
 * What a search text names directly: an address, `org/repo:Q4_K_M`, or one of Ollama's names.
 * @param {string} text
 * @param {string[]} ollamaNames
 * @returns {string | null}
 */
export function directReference(text, ollamaNames) {
  const bare = text.trim();
  if (isAddress(bare)) return bare;
  if (/^[\w.-]+\/[\w.-]+(:[\w.-]+)?$/.test(bare)) return bare;
  const [name, tag] = bare.split(':');
  return tag || ollamaNames.includes(name) ? (/^[\w.-]+(:[\w.-]+)?$/.test(bare) ? bare : null) : null;
}

/** @param {HubModel} model @returns {string[]} what it can do, in words */
export function abilities(model) {
  const tags = new Set([...model.tags, model.pipeline ?? '']);
  const words = [];
  if (tags.has('image-text-to-text') || tags.has('vision')) words.push('vision');
  if (tags.has('feature-extraction') || tags.has('sentence-similarity')) words.push('embedding');
  if (tags.has('function-calling') || tags.has('tool-use') || tags.has('tools')) words.push('tools');
  if (tags.has('code')) words.push('code');
  if (tags.has('automatic-speech-recognition') || tags.has('audio')) words.push('audio');
  return words;
}
