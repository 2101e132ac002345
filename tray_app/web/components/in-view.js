// @ts-check
/** A task that is seen on its page need not stand in the strip below, too. */

import { useEffect, useRef } from '../html.js';
import { jobsInView } from '../store.js';

/** @param {string} id @param {boolean} seen */
function mark(id, seen) {
  if (jobsInView.value.has(id) === seen) return;
  const next = new Set(jobsInView.value);
  if (seen) next.add(id);
  else next.delete(id);
  jobsInView.value = next;
}

/** @param {string} id of a job @returns {{current: any}} for the element that shows it */
export function useInView(id) {
  const shown = useRef(/** @type {any} */ (null));
  useEffect(() => {
    const watch = new IntersectionObserver((seen) => mark(id, seen[seen.length - 1].isIntersecting), { threshold: 1 });
    watch.observe(shown.current);
    return () => {
      watch.disconnect();
      mark(id, false);
    };
  }, [id]);
  return shown;
}
