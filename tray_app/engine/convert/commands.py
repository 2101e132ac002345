"""The commands about conversion; part of the engine's one table (`engine.commands`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .record import Wish
from .values import Conversions, ConvertPlan, Options, Quality, Targets

if TYPE_CHECKING:
    from tray_app.engine.core import Engine


class ConvertCommands:
    """Public methods are commands."""

    def __init__(self, engine: Engine) -> None:
        self._convert = engine.convert

    def convert_plan(self, source: str, output: str = "auto") -> ConvertPlan:
        """What can be made of a folder of original weights, or of a repository."""
        return self._convert.conversions.plan(source, output)

    def convert_model(
        self,
        source: str,
        output: str = "auto",
        types: list[str] | None = None,
        name: str = "",
        keep_full: bool = True,
        keep_originals: bool = True,
        imatrix: str = "",
        overrides: list[str] | None = None,
        measure: bool = False,
        base: str = "",
    ) -> dict[str, str]:
        """Start making models of original weights: fetch, convert, check, quantize."""
        options = Options(imatrix, tuple(map(str, overrides or ())), measure)
        wish = Wish(
            source, output, tuple(types or ()), name, keep_full, keep_originals, options, base
        )
        return {"job_id": self._convert.conversions.start(wish).id}

    def conversions(self) -> Conversions:
        """What has not ended, and the converter's own environment."""
        found = self._convert.conversions
        return Conversions(found.unfinished(), found.environment.status())

    def continue_conversion(self, conversion_id: str) -> dict[str, str]:
        """Go on with one that failed or was interrupted."""
        return {"job_id": self._convert.conversions.continue_(conversion_id).id}

    def discard_conversion(self, conversion_id: str) -> None:
        """Give one up, with all that it has on the disk."""
        self._convert.conversions.discard(conversion_id)

    def install_converter(self, repair: bool = False) -> dict[str, str]:
        """Start installing the converter, or making it anew."""
        return {"job_id": self._convert.conversions.install(repair).id}

    def remove_converter(self) -> None:
        """Delete the converter's environment; it is made again when it is needed."""
        self._convert.conversions.environment.remove()

    def quantize_targets(self, model_id: str) -> Targets:
        """What a model can be made into here, with the size of each."""
        return self._convert.quantizing.targets(model_id)

    def quantize_model(
        self,
        model_id: str,
        types: list[str],
        imatrix: str = "",
        overrides: list[str] | None = None,
        measure: bool = False,
    ) -> dict[str, str]:
        """Start making a model into other quantizations."""
        options = Options(imatrix, tuple(map(str, overrides or ())), measure)
        return {"job_id": self._convert.quantizing.start(model_id, types, options).id}

    def model_quality(self, model_id: str) -> Quality | None:
        """What was measured of a model against what it was made of."""
        return self._convert.quantizing.quality(model_id)

    def split_model(self, model_id: str, shard_bytes: int) -> dict[str, str]:
        """Start cutting a model into shards; the whole file stays."""
        return {"job_id": self._convert.sharding.split(model_id, shard_bytes).id}

    def verify_model(self, model_id: str) -> dict[str, str]:
        """Start checking a model: its header, a load, an answer."""
        return {"job_id": self._convert.sharding.verify(model_id).id}

    def merge_model(self, model_id: str) -> dict[str, str]:
        """Start making one file of a model's shards; they stay."""
        return {"job_id": self._convert.sharding.merge(model_id).id}
