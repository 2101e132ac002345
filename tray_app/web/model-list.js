// @ts-check
/** Which models the list shows, and in which order. Pure. */

/** @typedef {import('./types.js').Model} Model */
/** @typedef {import('./types.js').ModelStatus} ModelStatus */

export const SORTS = /** @type {const} */ ({
  name: 'Name',
  recent: 'Recently used',
  newest: 'Newest file',
  size: 'Size',
  parameters: 'Parameters',
  context: 'Context',
});
/** @typedef {keyof typeof SORTS} Sort */

export const FILTERS = /** @type {const} */ ({
  all: 'All',
  loaded: 'In memory',
  chat: 'Chat',
  embedding: 'Embedding',
  vision: 'Vision',
  problem: 'Problems',
});
/** @typedef {keyof typeof FILTERS} Filter */

const byName = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });
const HELD = new Set(['waiting', 'loading', 'ready', 'stopping', 'backoff']);

/**
 * @param {Model} model
 * @param {ModelStatus | undefined} status
 * @param {Filter} filter
 */
export function passes(model, status, filter) {
  switch (filter) {
    case 'loaded': return HELD.has(status?.state ?? '');
    case 'chat': return model.kind === 'chat' || model.kind === 'completion';
    case 'embedding': return model.kind === 'embedding';
    case 'vision': return model.mmproj_path != null;
    case 'problem': return !model.available || status?.state === 'failed' || status?.state === 'backoff';
    default: return true;
  }
}

/**
 * @param {Model[]} models
 * @param {Map<string, ModelStatus>} statuses
 * @returns {Record<Filter, number>}
 */
export function counts(models, statuses) {
  const found = { all: 0, loaded: 0, chat: 0, embedding: 0, vision: 0, problem: 0 };
  const filters = /** @type {Filter[]} */ (Object.keys(found));
  for (const model of models) {
    for (const filter of filters) if (passes(model, statuses.get(model.id), filter)) found[filter] += 1;
  }
  return found;
}

/** @param {Model} model */
const haystack = (model) =>
  [model.name, model.publisher, model.id, model.quantization, model.architecture, model.size_label, model.kind]
    .join(' ')
    .toLowerCase();

/**
 * @param {Model[]} models
 * @param {{query: string, filter: Filter, sort: Sort, down: boolean, statuses: Map<string, ModelStatus>, recents: string[]}} how
 * @returns {Model[]}
 */
export function arrange(models, { query, filter, sort, down, statuses, recents }) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = models.filter((model) => {
    if (!passes(model, statuses.get(model.id), filter)) return false;
    if (!words.length) return true;
    const text = haystack(model);
    return words.every((word) => text.includes(word));
  });
  const place = new Map(recents.map((id, i) => [id, i]));
  /** @param {Model} m */
  const value = (m) => ({
    recent: -(place.get(m.id) ?? Infinity),
    newest: m.modified_at,
    size: m.size_bytes,
    parameters: m.parameter_count ?? -1,
    context: m.context_length ?? -1,
    name: 0,
  })[sort];
  const sign = down ? -1 : 1;
  return shown.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x !== y) return x < y ? -sign : sign;
    return byName.compare(a.name, b.name) * (sort === 'name' ? sign : 1) || byName.compare(a.id, b.id);
  });
}
