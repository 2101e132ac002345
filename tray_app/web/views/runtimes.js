// @ts-check
/** Runtimes: the llama.cpp in use, what this computer could use, what is installed, what is new. */

import { html, useEffect, useState } from '../html.js';
import { link, runtime } from '../store.js';
import { askAvailable, offersKey } from '../runtime-offers.js';
import { PageHead } from '../components/ui.js';
import { ActiveRuntime } from './runtimes-active.js';
import { BuildDialog } from './build-dialog.js';
import { HardwareCard } from './hardware-card.js';
import { InstalledCard } from './runtimes-installed.js';
import { LadderCard } from './runtimes-ladder.js';
import { RuntimeTasks } from './runtimes-tasks.js';
import { UpdatesCard } from './runtimes-updates.js';

export function RuntimesView() {
  const [building, setBuilding] = useState(/** @type {string | null} */ (null));
  const connected = link.value === 'open';
  useEffect(() => { if (connected) askAvailable(false); }, [connected, offersKey.value]);
  if (!runtime.value) return null;
  return html`
    <div class="page">
      <${PageHead} title="Runtimes" sub="A runtime is one build of llama.cpp, the program that runs the models." />
      <div class="page-scroll"><div class="runtimes">
        <${ActiveRuntime} onBuild=${setBuilding} />
        <${RuntimeTasks} />
        <${HardwareCard} />
        <${LadderCard} onBuild=${setBuilding} />
        <${InstalledCard} />
        <${UpdatesCard} />
      </div></div>
      ${building !== null && html`<${BuildDialog} backend=${building} onClose=${() => setBuilding(null)} />`}
    </div>`;
}
