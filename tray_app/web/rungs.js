// @ts-check
/** Which actions fit a backend on this computer, and which way is the best one. Pure. */

/** @typedef {import('./types.js').Available} Available */
/** @typedef {import('./types.js').Buildable} Buildable */
/** @typedef {import('./types.js').Choice} Choice */
/** @typedef {import('./types.js').Runtime} Runtime */
/** @typedef {import('./types.js').RuntimeStatus} RuntimeStatus */
/** @typedef {import('./types.js').Rung} Rung */

/**
 * @typedef {object} RungView
 * @property {Rung} rung
 * @property {boolean} inUse
 * @property {boolean} best whether it is the one for this computer, by itself or by the user's wish
 * @property {Runtime | null} use an installed one that may take over
 * @property {(Choice & {build: number, tag: string}) | null} install
 * @property {boolean} upgrade whether `install` is a newer one of an installed one
 * @property {Buildable | null} build tools are there
 * @property {Buildable | null} wants to build it, something is missing
 */

/**
 * The newest installed one of a backend that did not fail its proof.
 * @param {Runtime[]} installed
 * @param {string} backend
 * @returns {Runtime | null}
 */
export function newestOf(installed, backend) {
  return installed
    .filter((runtime) => runtime.backend === backend && runtime.proof?.ok !== false)
    .sort((a, b) => (b.build ?? -1) - (a.build ?? -1))[0] ?? null;
}

/**
 * The newest release's file of a backend, unless what is installed is as new.
 * @param {Available | null} available
 * @param {string} backend
 * @param {Runtime | null} newest
 */
function installOf(available, backend, newest) {
  for (const release of available?.releases ?? []) {
    const choice = release.choices.find((one) => one.backend === backend);
    if (!choice) continue;
    const newer = newest?.build == null || release.build > newest.build;
    return choice.usable && !choice.installed && newer ? { ...choice, build: release.build, tag: release.tag } : null;
  }
  return null;
}

/** The backend to have: the user's, or the first that works here. @param {Rung[]} ladder @param {string | null} wish */
export function preferred(ladder, wish) {
  if (wish) return wish;
  return ladder.find((rung) => rung.usable)?.backend ?? null;
}

/**
 * @param {RuntimeStatus} status
 * @param {Available | null} available null: not known (yet)
 * @param {string | null} wish setting runtime.backend
 * @returns {RungView[]} in the ladder's order
 */
export function rungViews(status, available, wish) {
  const wanted = preferred(status.ladder, wish);
  return status.ladder.map((rung) => {
    const newest = newestOf(status.installed, rung.backend);
    const inUse = status.active?.backend === rung.backend;
    const buildable = available?.buildable.find((one) => one.backend === rung.backend) ?? null;
    return {
      rung,
      inUse,
      best: rung.backend === wanted,
      use: inUse || newest?.id === status.active?.id ? null : newest,
      install: installOf(available, rung.backend, newest),
      upgrade: newest !== null,
      build: buildable?.usable ? buildable : null,
      wants: rung.usable && buildable && !buildable.usable ? buildable : null,
    };
  });
}

/**
 * What to offer first where there is no runtime: a download before a build, the best backend
 * before the next.
 * @param {RungView[]} views
 * @returns {RungView | null}
 */
export function firstOffer(views) {
  const usable = [...views.filter((view) => view.best), ...views.filter((view) => !view.best && view.rung.usable)];
  return usable.find((view) => view.use || view.install) ?? usable.find((view) => view.build) ?? null;
}
