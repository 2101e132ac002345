"""Every error the engine shows anyone: a stable code, what happened, and what to do about it.

    EngineError
    ├── BadRequest            a command or a setting was wrong in itself
    │   ├── SettingsInvalid
    │   └── NeedsConversion   a repository with original weights and no GGUF
    ├── NotFound
    │   ├── ModelNotFound
    │   └── JobNotFound
    ├── NoActiveModel         `default` was asked for and nothing is chosen
    ├── ModelUnavailable      the file is gone, its drive is missing, or it is disabled
    ├── ModelFailed           llama-server would not load it, or died
    ├── NotEnoughMemory
    ├── QueueFull             too many requests wait for one model
    ├── NotEnoughDisk
    ├── BadGguf
    ├── RuntimeMissing        no llama.cpp that offers what we use
    ├── RuntimeBuildFailed
    ├── RuntimeRejected       a llama.cpp that was tried and may not be used
    ├── DownloadFailed
    ├── ConversionFailed      a model that was made is not one, or could not be made
    ├── BenchFailed           a model's speed could not be measured
    ├── AppUpdateRefused      word of a new version that is not to be trusted, or not for this copy
    ├── AppUpdateFailed       a new version of this app could not be had, or does not work here
    ├── PortTaken
    ├── AlreadyRunning
    └── EngineUnreachable

`message` says what happened, with numbers; `remedy` says what the user can do. The cause
stays on `__cause__` for the log and never reaches a face.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorView:
    """An error as the faces see it."""

    code: str
    message: str
    remedy: str = ""


class EngineError(Exception):
    """Base of the family."""

    code = "engine"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def view(self) -> ErrorView:
        """This error as a value."""
        return ErrorView(self.code, self.message, self.remedy)


class BadRequest(EngineError):
    code = "bad_request"


class SettingsInvalid(BadRequest):
    code = "settings_invalid"


class NeedsConversion(BadRequest):
    code = "needs_conversion"


class NotFound(EngineError):
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class NoActiveModel(EngineError):
    code = "no_active_model"


class ModelUnavailable(EngineError):
    code = "model_unavailable"


class ModelFailed(EngineError):
    code = "model_failed"


class NotEnoughMemory(EngineError):
    code = "not_enough_memory"


class QueueFull(EngineError):
    code = "queue_full"


class NotEnoughDisk(EngineError):
    code = "not_enough_disk"


class BadGguf(EngineError):
    code = "bad_gguf"


class RuntimeMissing(EngineError):
    code = "runtime_missing"


class RuntimeBuildFailed(EngineError):
    code = "runtime_build_failed"


class RuntimeRejected(EngineError):
    code = "runtime_rejected"


class ConversionFailed(EngineError):
    code = "conversion_failed"


class BenchFailed(EngineError):
    code = "bench_failed"


class DownloadFailed(EngineError):
    code = "download_failed"


class AppUpdateRefused(EngineError):
    code = "app_update_refused"


class AppUpdateFailed(EngineError):
    code = "app_update_failed"


class PortTaken(EngineError):
    code = "port_taken"


class AlreadyRunning(EngineError):
    code = "already_running"


class EngineUnreachable(EngineError):
    code = "engine_unreachable"


class SelfTestFailed(EngineError):
    code = "self_test_failed"


class Cancelled(BaseException):
    """Raised inside a job at its next checkpoint after a cancel: a state, not an error."""
