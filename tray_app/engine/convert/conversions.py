"""The engine's side of conversions: planned, started, continued after anything, discarded."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from tray_app.engine.downloads import kept_plan
from tray_app.engine.downloads.quantizations import explain
from tray_app.engine.errors import (
    BadRequest,
    Cancelled,
    EngineError,
    ErrorView,
    NotFound,
    RuntimeMissing,
)
from tray_app.engine.formats.converter import Known, known_architectures
from tray_app.engine.formats.values import Action
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import Job

from .convert_tool import OUTPUTS, tree_of
from .environment import Environment
from .making import Making
from .originals import Originals, look
from .pipeline import Pipeline, check_free, steps_of
from .quantize_tool import override_words
from .quantizer import free_bytes
from .quantizing import Quantizing
from .record import Record, Records, Wish, conversion_id, unchanged
from .values import ConvertPlan, Target, Unfinished

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

log = logging.getLogger(__name__)

KIND, INSTALL = "convert_model", "install_converter"
MOST_STARTS = 2  # by itself, without a step being done: what kills the engine must not do so again


class Conversions:
    """Commands come from any thread; the work is a job."""

    def __init__(self, engine: Engine, making: Making, quantizing: Quantizing) -> None:
        """Touches no disk."""
        self._engine, self._making, self._quantizing = engine, making, quantizing
        self.environment = Environment(engine.home.path / "converter", engine.registry)
        self.records = Records(engine.home.models)
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}  # conversion: job

    # -- before

    def plan(self, source: str, output: str = "auto") -> ConvertPlan:
        """What can be made of a folder or a repository. Blocks for seconds where the hub is asked.

        Raises BadRequest, NotFound, DownloadFailed.
        """
        _check_output(output)
        found = look(source, "", self._known(), self._engine.downloads.hub)
        report, full = found.report, found.full_bytes(output)
        problem, remedy = report.problem, report.remedy
        try:
            tree_of(self._engine.runtime.require(None))
        except RuntimeMissing as error:
            problem, remedy = problem or error.message, remedy or error.remedy
        origin = found.plan.origin if found.plan else {}
        can = not problem and not found.lora
        tokenizer = report.tokenizer
        begun = conversion_id(found.source, output, found.name)
        return ConvertPlan(
            source=found.source,
            place="folder" if found.plan is None else "hub",
            name=found.name,
            title=report.title,
            problem=problem,
            remedy=remedy,
            warnings=report.warnings,
            architecture=report.architecture,
            parameters=found.parameters,
            context_length=report.context_length,
            tokenizer=tokenizer.kind if tokenizer else None,
            has_chat_template=tokenizer.has_chat_template if tokenizer else None,
            vision=report.vision and self._sees(report.architecture),
            lora=found.lora,
            base=found.base,
            original_bytes=report.size_bytes,
            download_bytes=(found.plan.total_bytes or 0) if found.plan else 0,
            full_bytes=full,
            free_bytes=free_bytes(self._making),
            targets=self._targets(found) if can else (),
            converter=self.environment.status(),
            convert_s=self._making.rates.convert_s(full),
            quantize_s_per_gb=self._making.rates.quantize_s_per_gb(),
            unfinished=begun if any(r.id == begun for r in self.records.all()) else None,
            license=origin.get("license"),
            page=origin.get("page"),
        )

    def _targets(self, found: Originals) -> tuple[Target, ...]:
        """Sizes by the tool's own bits per weight; small models come out larger.

        Which need a matrix: llama-quant.cpp, tensor_requires_imatrix (b11434).
        """
        made = []
        for each in self._quantizing.types(self._engine.runtime.require(None)):
            bits = each.bits_per_weight
            size = round(found.parameters * bits / 8) if bits and found.parameters else None
            needs = each.label.startswith(("IQ1", "IQ2")) or each.label in ("IQ3_XXS", "Q2_K_S")
            made.append(Target(each.label, explain(each.label), size, bits, needs_imatrix=needs))
        return tuple(sorted(made, key=lambda each: -(each.size_bytes or 0)))

    # -- starting

    def start(self, wish: Wish) -> Job:
        """Begin a conversion, or go on with the same. Raises as `plan`, and RuntimeMissing."""
        _check_output(wish.output)
        runtime = self._engine.runtime.require(None)
        tree_of(runtime)
        found = look(wish.source, wish.name, self._known(), self._engine.downloads.hub)
        if not {Action.CONVERT, Action.CONVERT_LORA} & set(found.report.actions):
            raise BadRequest(found.report.problem or found.report.title, found.report.remedy)
        types = () if found.lora else tuple(self._quantizing.checked(wish.types, runtime))
        override_words(wish.options.overrides)
        lacking = [t.label for t in self._targets(found) if t.needs_imatrix and t.label in types]
        if lacking and not wish.options.imatrix:
            raise BadRequest(
                f"{lacking[0]} needs an importance matrix.", "Have one computed, or name one."
            )
        wish = Wish(
            found.source,
            wish.output,
            types,
            found.name,
            wish.keep_full,
            wish.keep_originals,
            wish.options,
            wish.base,
        )
        what = "the adapter " if found.lora else ""
        record = Record(
            id=conversion_id(found.source, wish.output, found.name),
            wish=wish,
            title=f"Converting {what}{found.name[:80]}",
            mark=found.mark,
            owner=found.owner,
            lora=found.lora,
            vision=found.report.vision and self._sees(found.report.architecture),
            plan=kept_plan.to_memo(found.plan) if found.plan else None,
        )
        record.steps = tuple(words for _, words in steps_of(record))
        check_free(self._engine.home.models, record)
        return self._submit(self._taken_up(record))

    def _taken_up(self, record: Record) -> Record:
        """With what an unfinished one of the same weights has done already."""
        wish = record.wish
        with contextlib.suppress(NotFound):
            before = self.records.load(record.id)
            if before.id in self._running and (before.wish, before.mark) != (wish, record.mark):
                raise BadRequest("It is being converted already.", "Wait for it, or cancel it.")
            if before.mark == record.mark:
                keys = {key for key, _ in steps_of(record)}
                # A matrix and its types are made anew when they are to be made in another way.
                if before.wish.options != wish.options:
                    keys = {key for key in keys if ":" not in key and key != "imatrix"}
                if before.wish.keep_full != wish.keep_full:
                    keys.discard("check")
                record.done = {k: rows for k, rows in before.done.items() if k in keys}
            else:
                self.records.remove(before.id)
        return record

    def _submit(self, record: Record) -> Job:
        engine = self._engine
        with self._lock:
            job_id = self._running.get(record.id)
            if job_id is not None:
                return engine.jobs.get(job_id)
            self.records.save(record)

            def work(context: JobContext) -> None:
                self._work(record, context)

            def dropped() -> None:
                self._ended(record)
                self.records.remove(record.id)

            log_path = engine.home.logs / "convert.log"
            job = engine.jobs.submit(KIND, record.title, work, log_path, record.steps, dropped)
            self._running[record.id] = job.id
            return job

    def _work(self, record: Record, context: JobContext) -> None:
        """Run it; a cancel leaves nothing, all else leaves what can be gone on with."""
        try:
            pipeline = Pipeline(self._engine, self._making, self.environment, self.records, record)
            pipeline.run(context)
        except Cancelled:
            if not self._engine.closing:
                self.records.remove(record.id)
            raise
        except EngineError as error:
            self._failed(record, error.view())
            raise
        except OSError as error:
            self._failed(record, ErrorView("os_error", str(error), "Free some space, or retry."))
            raise
        finally:
            self._ended(record)

    def _ended(self, record: Record) -> None:
        with self._lock:
            self._running.pop(record.id, None)

    def _failed(self, record: Record, error: ErrorView) -> None:
        record.error = error
        with contextlib.suppress(OSError):  # the disk may be full
            self.records.save(record)

    # -- after

    def resume(self) -> None:
        """Go on with what a quit or a kill interrupted. What failed waits for the user."""
        self.records.clear_odd()
        for record in self.records.all():
            if record.error is None and record.starts < MOST_STARTS:
                with contextlib.suppress(EngineError):
                    self.continue_(record.id)

    def continue_(self, conversion_id: str) -> Job:
        """Go on at the first step that is not done. Raises NotFound."""
        record = self.records.load(conversion_id)
        return self._submit(record)

    def discard(self, conversion_id: str) -> None:
        """Give one up; what it has on the disk is deleted. Raises NotFound."""
        with self._lock:
            job_id = self._running.get(conversion_id)
        if job_id is not None:
            self._engine.jobs.cancel(job_id)
            return
        self.records.load(conversion_id)
        self.records.remove(conversion_id)

    def unfinished(self) -> tuple[Unfinished, ...]:
        """Those that have not ended, running ones among them. Blocks for a look at their files."""
        found = []
        for record in self.records.all():
            keys = [key for key, _ in steps_of(record)]
            done = [unchanged(record.done.get(key)) is not None for key in keys]
            found.append(
                Unfinished(
                    record.id,
                    record.title,
                    record.wish.source,
                    record.steps,
                    done.index(False) if False in done else len(done),
                    record.error,
                    self.records.size_bytes(record.id),
                    record.updated_at,
                    self._running.get(record.id),
                )
            )
        return tuple(found)

    def install(self, repair: bool) -> Job:
        """Make the converter's environment now, anew if it is to be repaired."""

        def work(context: JobContext) -> None:
            with self.environment.held(context, repair):
                pass

        words = "Repairing the converter" if repair else "Installing the converter"
        log_path = self._engine.home.logs / "convert.log"
        return self._engine.jobs.submit(INSTALL, words, work, log_path)

    # -- inside

    def _known(self) -> Known | None:
        active = self._engine.runtime.status().active
        try:
            return known_architectures(tree_of(active)) if active else None
        except RuntimeMissing:
            return None

    def _sees(self, architecture: str | None) -> bool:
        known = self._known()
        return known is not None and architecture in known.vision


def _check_output(output: str) -> None:
    if output not in OUTPUTS:
        raise BadRequest(f"There is no output {output[:40]!r}.", f"Use: {', '.join(OUTPUTS)}.")
