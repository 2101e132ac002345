"""Streams without pause, switches and kills at random, for minutes: nothing may be lost or left.

    python -m tests.benchmarks.bench_soak [--minutes 10] [--clients 8] [--switches 200]

A real engine with three real models and memory for one or two. Clients stream chat answers, some
hang up in the middle; models are switched by command and by requests that name them;
llama-servers are killed in every state. Exits with 1 when a switch cut an answer, a kill was not
told to its client or the request after it failed, a process or a descriptor is left over, or the
engine grew.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import parts
from tests.benchmarks.bench_switch import FIRST, SECOND
from tests.benchmarks.soak_client import LEFT, WHOLE, Asking, Outcome
from tests.e2e import kit
from tray_app.client import Client

THIRD = "third-herd/SmolLM2-135M-Middle-GGUF:Q3_K_S"
THIRD_FILE = "third-herd/SmolLM2-135M-Middle-GGUF/SmolLM2-135M-Middle.Q3_K_S.gguf"
MODELS = (FIRST, SECOND, THIRD)
DEFAULT = "default"
# One or two of the three fit; the budget changes between them.
BUDGETS_BYTES = (400_000_000, 700_000_000)
# The first minutes fill pools and caches of bounded size; what would go on growing is a leak.
RSS_WARMTH_GOAL, RSS_GROWTH_GOAL, JUDGED_S = 0.20, 0.05, 300.0
DESCRIPTORS_GOAL = 2.0  # medians of a minute, while connections come and go
ORPHAN_AFTER_S = 20.0  # an end may take its grace, and a save before it
# Five deaths within two minutes are a failure, by design: stay below.
KILLS_OF_ONE, KILLS_WINDOW_S = 3, 125.0
LONG = "Here is a list of words to remember. " + " ".join(
    f"word{n * 7919 % 997}" for n in range(99)
)


@dataclass(frozen=True)
class Sample:
    """The engine's process at one moment."""

    at: float
    rss_bytes: int
    descriptors: int
    threads: int


@dataclass
class Seen:
    """Everything that happened, and what must not have."""

    outcomes: list[Outcome] = field(default_factory=list)
    after_cut: list[Outcome] = field(default_factory=list)
    kills: list[tuple[float, str, str]] = field(default_factory=list)  # when, model, its state
    switches: collections.Counter[str] = field(default_factory=collections.Counter)
    loads: int = 0
    samples: list[Sample] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def violation(self, text: str) -> None:
        """Remember it, and say so at once: a soak is long."""
        self.wrong.append(text)
        print(f"  at {time.monotonic() - self.began:.1f} s: {text}", flush=True)

    def was_killed(self, outcome: Outcome) -> bool:
        """Whether a kill explains how this request ended."""
        return any(
            outcome.began - 1 <= at <= outcome.ended
            and (not outcome.model or model == outcome.model)
            for at, model, _ in self.kills
        )


class Soak:
    """The tasks of one run."""

    def __init__(self, client: Client, home: Path, options: argparse.Namespace) -> None:
        self.client, self.home = client, home
        self.clients, self.switches, self.kills = options.clients, options.switches, options.kills
        self.length_s, self.most_tokens = options.minutes * 60, options.tokens
        self.random = random.Random(options.seed)
        self.port = int(client.snapshot()["gateway"]["port"])
        self.engine = psutil.Process(client.engine_pid)
        self.seen = Seen()
        self.over = asyncio.Event()
        self.states: dict[str, tuple[str, int | None]] = {}
        self.unexplained: dict[int, float] = {}
        self.last_switch = 0

    async def run(self) -> None:
        """All of it; returns when every client has its last answer."""
        threading.Thread(target=self._follow_events, daemon=True).start()
        self.client.call("switch_model", model_id=FIRST)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.clients):
                tasks.create_task(self._stream_on())
            for work in (self._switch, self._kill, self._sample, self._budgets):
                tasks.create_task(work())
            await asyncio.sleep(self.length_s)
            self.over.set()

    # -- those who use it

    async def _stream_on(self) -> None:
        after_cut = False
        while not self.over.is_set():
            model = DEFAULT if self.random.random() < 0.9 else self.random.choice(MODELS)
            tokens = self.random.randint(min(8, self.most_tokens), self.most_tokens)
            leave = self.random.randint(1, 8) if self.random.random() < 0.04 else 0
            prompt = LONG if self.random.random() < 0.05 else "Write a long story about a llama."
            outcome = await Asking(self.port, model, prompt, tokens, leave).run()
            self._judge(outcome, model, after_cut)
            after_cut = outcome.end not in (WHOLE, LEFT)
            if after_cut and outcome.status != 200:
                await asyncio.sleep(0.05)  # what any client does that was refused

    def _judge(self, outcome: Outcome, asked: str, after_cut: bool) -> None:
        seen = self.seen
        seen.outcomes.append(outcome)
        if after_cut:
            seen.after_cut.append(outcome)
        took = f"{outcome.ended - outcome.began:.2f} s, {outcome.pieces} pieces"
        if asked != DEFAULT and outcome.model not in ("", asked):
            seen.violation(f"{asked} was asked for and {outcome.model} answered")
        if outcome.end in (WHOLE, LEFT):
            return
        text = f"{outcome.end} ({outcome.status}) from {outcome.model or asked} after {took}"
        if not seen.was_killed(outcome):
            seen.violation(f"cut without a kill: {text}")
        elif not outcome.told:
            seen.violation(f"a kill was not told: {text}")

    async def _switch(self) -> None:
        """Switches all along; each is followed to its end while the next may come already."""
        pause_s = self.length_s / (self.switches + 1)
        async with asyncio.TaskGroup() as following:
            for number in range(self.switches):
                due = self.seen.began + (number + self.random.random()) * pause_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self.last_switch = number
                target = self.random.choice(MODELS)
                by_command = self.random.random() < 0.6
                self.seen.switches["by command" if by_command else "by a request"] += 1
                if by_command:
                    await asyncio.to_thread(self.client.call, "switch_model", model_id=target)
                following.create_task(self._follow(number, target, by_command))

    async def _follow(self, number: int, target: str, by_command: bool) -> None:
        """A request right after a switch: it is answered by the model that was chosen."""
        asked = DEFAULT if by_command else target
        outcome = await Asking(self.port, asked, "Say hello.", 4).run()
        self._judge(outcome, asked, False)
        newest = number == self.last_switch
        if by_command and newest and outcome.model not in ("", target):
            self.seen.violation(f"{target} was chosen and {outcome.model} answered `default`")

    async def _budgets(self) -> None:
        """Memory for one model, then for two, and so on."""
        while not self.over.is_set():
            changes = {"server.memory_budget_bytes": self.random.choice(BUDGETS_BYTES)}
            await asyncio.to_thread(self.client.call, "change_settings", changes=changes)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), 20)

    # -- the one who kills

    async def _kill(self) -> None:
        pause_s = self.length_s / (self.kills + 1)
        for number in range(self.kills):
            due = self.seen.began + (number + self.random.random()) * pause_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            wanted = ("ready", "loading", "ready", "stopping")[number % 4]
            for _ in range(400):  # a load takes 0.3 s, an end less: watch for one
                if self._kill_one(wanted):
                    break
                await asyncio.sleep(0.01)

    def _kill_one(self, wanted: str) -> bool:
        now = time.monotonic()
        for model, (state, pid) in self.states.items():
            deaths = [at for at, who, _ in self.seen.kills if who == model]
            recent = sum(now - at < KILLS_WINDOW_S for at in deaths)
            if state != wanted or pid is None or recent >= KILLS_OF_ONE:
                continue
            try:
                process = psutil.Process(pid)
                if str(self.home) not in " ".join(process.cmdline()):
                    continue
                self.seen.kills.append((now, model, state))
                process.send_signal(signal.SIGKILL)
                return True
            except psutil.Error:
                continue  # it ended by itself meanwhile
        return False

    # -- those who look

    def _follow_events(self) -> None:
        """On a thread: what every model does, as a window would see it."""
        for _, name, data in self.client.events():
            if name == "ModelChanged":
                status = data["status"]
                model, state, pid = status["model_id"], status["state"], status["pid"]
                if state == "loading" and self.states.get(model, ("",))[0] != "loading":
                    self.seen.loads += 1
                self.states[model] = state, pid

    async def _sample(self) -> None:
        while not self.over.is_set():
            self.seen.samples.append(self._now())
            await asyncio.to_thread(self._look_for_orphans)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), 1)

    def _now(self) -> Sample:
        with self.engine.oneshot():
            rss = self.engine.memory_info().rss
            return Sample(time.monotonic(), rss, self.engine.num_fds(), self.engine.num_threads())

    def _look_for_orphans(self) -> None:
        """A llama-server that no model has, for longer than an end may take."""
        known = {s["pid"] for s in self.client.snapshot()["statuses"]}
        found = {p.pid for p in servers(self.engine)} - known
        now = time.monotonic()
        self.unexplained = {pid: self.unexplained.get(pid, now) for pid in found}
        for pid, since in self.unexplained.items():
            if now - since > ORPHAN_AFTER_S:
                self.seen.violation(f"llama-server {pid} belongs to no model")
                self.unexplained[pid] = now + 3600

    # -- the end

    def settle(self) -> Sample:
        """Unload everything; the engine at rest."""
        self.client.call("unload_model")
        kit.wait_for(lambda: not servers(self.engine), "all models to be unloaded")
        for status in self.client.snapshot()["statuses"]:
            if status["in_flight"] or status["waiting"]:
                self.seen.violation(f"at rest {status['model_id']} counts requests: {status}")
        quiet = threading.Event()
        quiet.wait(2.0)  # idle connections and threads end
        return self._now()


def servers(engine: psutil.Process) -> list[psutil.Process]:
    """The llama-servers below an engine, ended ones that nobody has reaped included."""
    found = []
    for process in engine.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "llama-server" in process.name():
                found.append(process)
    return found


def left_over(home: Path) -> list[str]:
    """Processes of this home that outlived the engine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if str(home) in words:
                found.append(f"{process.pid} {words[:120]}")
    return found


def minute(samples: list[Sample], first: float, last: float) -> list[Sample]:
    """The samples of a span, in seconds since the first one; the nearest where that is empty."""
    start = samples[0].at
    return [s for s in samples if first <= s.at - start < last] or samples[-1:]


def report_answers(seen: Seen) -> None:
    """Print how requests ended, and judge those after a cut."""
    ends = collections.Counter(outcome.end for outcome in seen.outcomes)
    cuts = [o for o in seen.outcomes if o.end not in (WHOLE, LEFT)]
    works = [o for o in seen.after_cut if o.end in (WHOLE, LEFT) or seen.was_killed(o)]
    if len(works) < len(seen.after_cut):
        seen.violation(f"{len(seen.after_cut) - len(works)} requests after a cut failed")
    tokens = sum(o.pieces for o in seen.outcomes)
    how = ", ".join(f"{count} {name}" for name, count in sorted(seen.switches.items()))
    by_state = collections.Counter(state for _, _, state in seen.kills)
    told = sum(outcome.told for outcome in cuts)
    print(f"answers   {ends[WHOLE]} whole, {ends[LEFT]} left by their client, {tokens:,} tokens")
    print(f"switches  {seen.switches.total()} ({how}); {seen.loads} loads")
    print(f"kills     {len(seen.kills)} ({', '.join(f'{n} {s}' for s, n in by_state.items())})")
    print(
        f"cuts      {len(cuts)} by kills, {told} told; the next request of the same client worked: "
        f"{len(works)} of {len(seen.after_cut)}"
    )
    print(f"          {sum(not seen.was_killed(o) for o in cuts)} by switches (goal 0)")


def report_waits(seen: Seen) -> None:
    """Print how long first tokens took, and the slowest of them."""
    by_wait = sorted((o for o in seen.outcomes if o.first_s), key=lambda o: o.first_s or 0.0)
    waits = [o.first_s or 0.0 for o in by_wait]
    print(
        f"waits     to the first token: median {statistics.median(waits):.2f} s, "
        f"99 % {waits[len(waits) * 99 // 100]:.2f} s, longest {waits[-1]:.2f} s"
    )
    for slow in by_wait[-3:]:
        near = [
            f"{state} {slow.ended - at:.0f} s before"
            for at, who, state in seen.kills
            if who == slow.model and slow.began - 5 < at < slow.ended
        ]
        print(
            f"          {slow.first_s:.2f} s at {slow.began - seen.began:.0f} s for {slow.model}"
            f" (killed: {', '.join(near) or 'no'})"
        )


def report_growth(seen: Seen, rest: tuple[Sample, Sample], length_s: float) -> None:
    """Print and judge the engine's memory and descriptors over the whole time."""
    span_s = min(60.0, length_s / 5)
    early, middle, late = (
        minute(seen.samples, at, at + span_s)
        for at in (span_s, length_s / 2 - span_s / 2, length_s - span_s)
    )
    rss = [statistics.median(s.rss_bytes for s in span) / 2**20 for span in (early, middle, late)]
    warmed, growth = rss[2] / rss[0] - 1, rss[2] / rss[1] - 1
    print(
        f"memory    {rss[0]:.1f} MiB in minute 2, {rss[1]:.1f} half-way, {rss[2]:.1f} at the end:"
        f" {warmed:+.1%} (goal {RSS_WARMTH_GOAL:+.0%}) and {growth:+.1%} (goal"
        f" {RSS_GROWTH_GOAL:+.0%}); at rest {rest[0].rss_bytes / 2**20:.1f} and"
        f" {rest[1].rss_bytes / 2**20:.1f} MiB"
    )
    starts = range(0, int(length_s), int(span_s))
    course = [minute(seen.samples, at, at + span_s) for at in starts]
    by_minute = (statistics.median(s.rss_bytes for s in span) / 2**20 for span in course)
    print(f"          {' '.join(f'{mib:.0f}' for mib in by_minute)} MiB, every {span_s:.0f} s")
    flat = growth <= RSS_GROWTH_GOAL and warmed <= RSS_WARMTH_GOAL
    if not flat and length_s >= JUDGED_S:
        seen.violation("the engine's memory is not flat")
    opened = [statistics.median(s.descriptors for s in span) for span in (early, late)]
    print(
        f"open files {opened[0]:.0f} in minute 2, {opened[1]:.0f} at the end; "
        f"at rest {rest[0].descriptors} and {rest[1].descriptors}; "
        f"threads {rest[0].threads} and {rest[1].threads}"
    )
    if opened[1] - opened[0] > DESCRIPTORS_GOAL or rest[1].descriptors > rest[0].descriptors + 1:
        seen.violation("descriptors were left open")


def main() -> int:
    """Soak and report; 1 when something was lost or left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--switches", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=40, help="of the longest answer")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--logs", type=Path, help="where to keep the engine's logs afterwards")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"soak of {options.minutes:g} min, {options.clients} clients, seed {options.seed}, "
        f"{os.cpu_count()} cores, load before {load:.1f}",
        flush=True,
    )
    with kit.temporary_home(memory_budget_bytes=BUDGETS_BYTES[0]) as (home, environ):
        parts.place(parts.requantized("Q3_K_S"), home / "models" / THIRD_FILE)
        with kit.running_engine(home, environ) as client:
            soak = Soak(client, home, options)
            soak.client.call("load_model", model_id=FIRST)  # what is imported late is there
            kit.wait_ready(client, FIRST)
            before = soak.settle()
            soak.seen.began = time.monotonic()
            asyncio.run(soak.run())
            after = soak.settle()
        left = left_over(home)
        report_answers(soak.seen)
        report_waits(soak.seen)
        report_growth(soak.seen, (before, after), soak.length_s)
        print(f"processes {len(left)} left over (goal 0)")
        for line in left:
            soak.seen.violation(f"left over: {line}")
        if sockets := list((home / "run").glob("*.sock")):
            soak.seen.violation(f"{len(sockets)} sockets left over")
        if options.logs:
            shutil.copytree(home / "logs", options.logs, dirs_exist_ok=True)
    print(f"{len(soak.seen.wrong)} violations" if soak.seen.wrong else "all goals met", flush=True)
    return 1 if soak.seen.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
