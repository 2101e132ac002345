"""What will run for a model: a pure value, the same for the launch and for whoever shows it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .settings import ModelSettings
from .values import Model, ModelKind, Runtime


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one llama-server listens: a unix socket, or a loopback port on Windows.

    A socket is this user's alone; a port is every program's, so that it asks for a key that only
    the engine knows.
    """

    socket_path: Path | None = None
    port: int | None = None
    key: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What each request to it carries."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def environment(self) -> dict[str, str | None]:
        """How its llama-server learns the key: an argument would show in the list of processes.

        A key that the user has set for servers of their own would shut ours.
        """
        return {"LLAMA_API_KEY": self.key or None}

    @property
    def marker(self) -> str:
        """A word of the command line that only this child has."""
        return str(self.socket_path or self.port)


@dataclass(frozen=True, slots=True)
class Placement:
    """What the fit decided: context in tokens, GPU layers, further placement arguments."""

    context_length: int
    gpu_layers: int | None = None
    extra_args: tuple[str, ...] = ()
    memory_bytes: int = 0
    on_devices: Mapping[str, int] = field(default_factory=dict)  # the part that is not in "Host"


def context_wished(settings: ModelSettings, model: Model) -> int:
    """The context length to ask for, in tokens: the setting, never beyond the training."""
    wished = settings.context_length or 8192
    return min(wished, model.context_length) if model.context_length else wished


def arguments(
    model: Model,
    settings: ModelSettings,
    runtime: Runtime,
    placement: Placement,
    endpoint: Endpoint,
    slot_folder: Path,
    prompt_cache_mib: int,
    draft_path: Path | None = None,
) -> tuple[str, ...]:
    """The whole argument vector of the model's llama-server.

    Fitting is off because `placement` carries its result; without `-c` llama.cpp would then
    take the whole training context. No warm-up run: the first request does the same work, and
    nobody waits for it twice.
    """
    words = [str(runtime.server_path), "--model", str(model.path), "--alias", model.id]
    if endpoint.socket_path:
        words += ["--host", str(endpoint.socket_path)]
    else:
        words += ["--host", "127.0.0.1", "--port", str(endpoint.port)]
    words += ["--ctx-size", str(placement.context_length), "--fit", "off", "--no-warmup"]
    layers = settings.gpu_layers if settings.gpu_layers is not None else placement.gpu_layers
    if layers is not None and layers >= 0:
        words += ["--gpu-layers", str(layers)]
    words += placement.extra_args
    words += computing_arguments(settings)
    if settings.threads is not None:
        words += ["--threads", str(settings.threads)]
    if settings.parallel is not None:
        words += ["--parallel", str(settings.parallel)]
    words += _file_arguments(settings, model, draft_path)
    words += answer_arguments(settings)
    if model.kind is ModelKind.EMBEDDING:
        words += ["--embeddings"]
    words += ["--slot-save-path", str(slot_folder), "--cache-ram", str(prompt_cache_mib)]
    words += ["--cors-origins", "localhost", "--metrics", "--offline"]
    if runtime.backend != "cpu":
        words += ["--verbosity", LOAD_DETAILS]
    return (*words, *settings.extra_args)


def computing_arguments(settings: ModelSettings) -> list[str]:
    """What changes how much memory the same weights and context take: the fit needs it too."""
    words: list[str] = []
    if settings.kv_cache_type is not None:
        words += ["--cache-type-k", settings.kv_cache_type]
        words += ["--cache-type-v", settings.kv_cache_type]
    if settings.flash_attention is not None:
        words += ["--flash-attn", settings.flash_attention]
    if settings.batch_size is not None:
        words += ["--batch-size", str(settings.batch_size)]
    if settings.ubatch_size is not None:
        words += ["--ubatch-size", str(settings.ubatch_size)]
    return words


def projector_of(settings: ModelSettings, model: Model) -> Path | None:
    """The projector it is loaded with: the one that was chosen, or the one beside it."""
    if not settings.mmproj:
        return None
    chosen = settings.mmproj_path
    return Path(chosen).expanduser() if chosen is not None else model.mmproj_path


def files_beside(
    settings: ModelSettings, model: Model, draft_path: Path | None = None
) -> list[Path]:
    """The further files that are loaded with the model: projector, draft model, adapters."""
    projector = projector_of(settings, model)
    eyes = [projector] if projector is not None else []
    draft = [draft_path] if draft_path is not None else []
    return [*eyes, *draft, *map(Path, settings.lora)]


def _file_arguments(settings: ModelSettings, model: Model, draft_path: Path | None) -> list[str]:
    """The arguments that name these files."""
    words: list[str] = []
    projector = projector_of(settings, model)
    if projector is not None:
        words += ["--mmproj", str(projector)]
    if draft_path is not None:
        words += ["--model-draft", str(draft_path)]
    for path, scale in settings.lora.items():
        if scale == 1.0:
            words += ["--lora", _csv_field(path)]
        else:
            words += ["--lora-scaled", _csv_field(f"{path}:{scale:g}")]
    return words


def _csv_field(text: str) -> str:
    """One field of the comma-separated lists that llama.cpp reads (common/arg.cpp)."""
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def answer_arguments(settings: ModelSettings) -> list[str]:
    """How it answers where a request does not say otherwise."""
    words: list[str] = []
    for name, value in (
        ("--temp", settings.temperature),
        ("--top-p", settings.top_p),
        ("--top-k", settings.top_k),
        ("--min-p", settings.min_p),
        ("--repeat-penalty", settings.repeat_penalty),
        ("--predict", settings.max_tokens),
        ("--reasoning", settings.reasoning),
    ):
        if value is not None:
            words += [name, f"{value:g}" if isinstance(value, float) else str(value)]
    template = settings.chat_template
    if template is not None:
        is_file = template.endswith(".jinja") or "/" in template or "\\" in template
        words += ["--chat-template-file" if is_file else "--chat-template", template]
    return words


# At llama-server's default of 3 a load does not tell how many layers went to the GPU (b11434).
# At 4 it does, in 185 lines; a request then costs 30 lines of log instead of 8.
LOAD_DETAILS = "4"

# How often an idle thread of llama.cpp's OpenMP team looks again before it sleeps. By default
# that is 300,000 times, for as long as another process has its core. Measured on 2 cores, two
# models answering at once: 18 + 18 tokens/s by default, 68 + 65 with this; one alone: 165 either
# way. The variables are GCC's (libgomp manual); other OpenMP libraries ignore them.
SPIN_COUNT = "400"
_WAIT_VARIABLES = frozenset({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"})


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What is added to a llama-server's environment; nothing where the user has set it."""
    return {} if _WAIT_VARIABLES & environ.keys() else {"GOMP_SPINCOUNT": SPIN_COUNT}


def command_text(argv: tuple[str, ...]) -> str:
    """The command as a person would type it; for showing and copying only, never for running."""
    return shlex.join(argv)
