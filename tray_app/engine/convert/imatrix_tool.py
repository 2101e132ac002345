"""llama.cpp's `llama-imatrix`: importance matrices, and the perplexity that comes with them.

Every runtime has it; one pass over a text gives either (b11434).
"""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from tray_app.engine.errors import BadRequest, ConversionFailed
from tray_app.engine.formats.bounded import read_start, whole_path
from tray_app.engine.jobs import JobContext

from .making import Making, threads

TOOL = "llama-imatrix"
HERE = Path(__file__).parent
CALIBRATION, MEASURE = HERE / "calibration.txt", HERE / "measure.txt"
CONTEXT = 512  # tokens of a chunk, as everybody measures
CALIBRATION_CHUNKS = 40
MEASURE_CHUNKS = 4  # a model with a small vocabulary makes more of the text
LARGEST_TEXT_BYTES = 50_000_000

_PASS = re.compile(r"over (\d+) chunks.*n_seq=(\d+)")
_PACE = re.compile(r"([\d.]+) seconds per pass")
_ESTIMATE = re.compile(r"\[(\d+)\]([\d.]+),")  # "[3]451.8381," after three chunks


def is_matrix(path: Path) -> bool:
    """Whether a file is an importance matrix: GGUF, or the form before (`.dat`)."""
    return read_start(path, 4) == b"GGUF" or path.suffix.lower() in (".dat", ".imatrix")


def text_of(wish: str) -> Path | None:
    """The text that a matrix is computed from, None for a matrix at hand. Raises BadRequest."""
    if wish == "compute":
        return CALIBRATION
    path = whole_path(wish)
    if path is None or not path.is_file():
        raise BadRequest(f"{wish[:200]!r} is no file.", "Give a whole path.")
    if is_matrix(path):
        return None
    if path.stat().st_size > LARGEST_TEXT_BYTES:
        raise BadRequest(f"{path.name} is larger than 50 MB.", "A text of 100 kB is plenty.")
    if b"\x00" in read_start(path, 4096):
        raise BadRequest(f"{path.name} is neither a text nor an importance matrix.")
    return path


def name_of(stem: str, text: Path) -> str:
    """How a matrix of a model is called: by its text too, and so that no scan takes it up."""
    digest = hashlib.sha256(text.read_bytes()).hexdigest()[:8]
    return f"{stem}.{digest}.imatrix"


def compute(
    making: Making, tool: Path, model: Path, text: Path, made: Path, context: JobContext
) -> None:
    """Compute the importance matrix of `model` into `made`. Blocks for minutes.

    Raises ConversionFailed, NotEnoughDisk, Cancelled, OSError.
    """
    chunks = str(CALIBRATION_CHUNKS)
    words = ("-o", str(made), "--no-ppl", "--parse-special", "--chunks", chunks)
    what = "Computing the importance matrix"
    _run(making, tool, model, text, words, what, context)
    if not made.is_file():
        raise ConversionFailed("No importance matrix was made.", "The job's log has the details.")


def perplexity(
    making: Making, tool: Path, model: Path, scratch: Path, what: str, context: JobContext
) -> dict[int, float]:
    """The perplexity of `model` on a short text after each chunk. Blocks and raises as `compute`.

    The last ones may be missing: the tool can end before its log is written out (b11434), and its
    "Final estimate" is only the last of these.
    """
    words = ("-o", str(scratch), "--chunks", str(MEASURE_CHUNKS))
    found = _run(making, tool, model, MEASURE, words, what, context)
    scratch.unlink(missing_ok=True)
    if not found:
        raise ConversionFailed("The perplexity was not told.", "The job's log has the details.")
    return found


def at_same_chunk(one: dict[int, float], other: dict[int, float]) -> tuple[float, float]:
    """Two perplexities on the same part of the text. Raises ConversionFailed without any."""
    common = one.keys() & other.keys()
    if not common:
        raise ConversionFailed("The perplexity was not told.", "Continue: it is measured again.")
    return one[max(common)], other[max(common)]


def _run(
    making: Making,
    tool: Path,
    model: Path,
    text: Path,
    more: tuple[str, ...],
    what: str,
    context: JobContext,
) -> dict[int, float]:
    """One pass over a text; the perplexity after each chunk, as far as it is told."""
    found: dict[int, float] = {}
    passes, pace_s, began = [0], [0.0], [0.0]

    def tell(line: str) -> None:
        if match := _PASS.search(line):
            passes[0] = -(-int(match[1]) // int(match[2]))
        if match := _PACE.search(line):
            pace_s[0], began[0] = float(match[1]), time.monotonic()
        for match in _ESTIMATE.finditer(line):
            found[int(match[1])] = float(match[2])

    def poll() -> None:
        # It tells its pace after the first pass, and then nothing until its end.
        if pace_s[0] and passes[0] > 1:
            done = 1 + (time.monotonic() - began[0]) / pace_s[0]
            context.progress(round(100 * min(done / passes[0], 0.99)), 100, "percent", what)

    context.progress(0, None, "steps", what)
    words = (str(tool), "-m", str(model), "-f", str(text), "-c", str(CONTEXT), *more)
    words += ("--threads", str(threads()), "--offline")
    making.run(words, model, what, context, tell, poll)
    return found
