"""Measures cases, in a process of its own: ``python -m mf_llm.speed.speed_run SETTINGS REPORT``.

SETTINGS is a JSON with ``model``, ``dtype``, ``threads`` (0: as torch sets them), ``batch_tokens`` (of mf_llm; 0: its
default) and ``cases`` (fields of `SpeedCase`, all of one method and readout); REPORT gets the JSON of what was
measured. Memory that another method held cannot disturb.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.atomic_files import write_json
from mf_llm.speed.ceilings import Ceilings, measure_ceilings
from mf_llm.speed.peak_memory import peak_memory
from mf_llm.speed.speed_case import COMPARED, SpeedCase, SpeedResult, token_ids
from mf_llm.speed.speed_methods import BATCH_TOKENS, option_scores, sampled_answers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class _Passes:
    """What the model was given: tokens of its passes, rows times length, and their seconds."""

    tokens: list[tuple[int, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    started: float = 0.0


def measure(
    backbone: PreTrainedModel, config: Any, case: SpeedCase, ceilings: Ceilings, batch_tokens: int = BATCH_TOKENS
) -> SpeedResult:
    """Measures one case.

    Args:
        backbone: a causal language model.
        config: how to sample.
        case: what to measure.
        ceilings: of the machine, in the type of the backbone's weights.
        batch_tokens: of mf_llm.
    """
    prefix, people, options = token_ids(case, backbone.config.get_text_config().vocab_size)
    seconds, passes, likelihoods = 0.0, _Passes(), None

    def work() -> None:
        nonlocal seconds, likelihoods
        with _watched(backbone, passes):
            start = time.perf_counter()
            if case.readout == "sampled":
                sampled_answers(case.method, backbone, prefix, people, config, batch_tokens)
            else:
                likelihoods = option_scores(case.method, backbone, prefix, people, options, batch_tokens)
            _wait(backbone)
            seconds = time.perf_counter() - start

    peak = peak_memory(work, backbone.device)
    mixed = case.method == "continuous batching"
    parts = list(zip(passes.tokens, passes.seconds, strict=True))
    writes = case.readout == "sampled" and not mixed
    several = [(rows * length, spent) for (rows, length), spent in parts if length > 1 or not writes]
    single = [(rows * length, spent) for (rows, length), spent in parts if length == 1 and writes]
    weights = sum(p.numel() for p in backbone.base_model.parameters())
    embedded = sum(p.numel() for p in backbone.get_input_embeddings().parameters())
    size = next(backbone.parameters()).element_size()
    tokens = sum(rows * length for rows, length in passes.tokens)
    return SpeedResult(
        seconds=seconds,
        prefill_seconds=None if mixed else sum(spent for _, spent in several),
        decode_seconds=None if mixed else sum(spent for _, spent in single),
        prefill_tokens=sum(n for n, _ in several),
        decode_tokens=None if mixed else sum(n for n, _ in single),
        compute_share=2 * (weights - embedded) * tokens / seconds / ceilings.flops,
        bandwidth_share=weights * size * len(parts) / seconds / ceilings.bandwidth,
        peak_bytes=peak,
        likelihoods=None if likelihoods is None else tuple(map(tuple, likelihoods[:COMPARED].tolist())),
    )


@contextmanager
def _watched(backbone: PreTrainedModel, passes: _Passes) -> Iterator[None]:
    """Notes the shape and the time of each pass."""

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        _wait(backbone)
        ids = kwargs.get("input_ids", args[0] if args else None)
        passes.tokens.append((int(ids.shape[0]), int(ids.shape[1])))
        passes.started = time.perf_counter()

    def end(module: Any, args: Any, output: Any) -> None:
        _wait(backbone)
        passes.seconds.append(time.perf_counter() - passes.started)

    handles = [
        backbone.register_forward_pre_hook(begin, with_kwargs=True),
        backbone.register_forward_hook(end),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _wait(backbone: PreTrainedModel) -> None:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()


def run(settings: dict[str, Any], told: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Loads the model and measures the cases.

    Args:
        settings: see the module.
        told: gets a line for each case.

    Returns:
        ``device``, ``dtype``, ``threads``, ``ceilings`` and ``results``, in the order of the cases.
    """
    from mf_llm.models.loading import load_model_and_processor

    if settings.get("threads"):
        torch.set_num_threads(settings["threads"])
    model, _ = load_model_and_processor(settings["model"], dtype=settings["dtype"], progress=False)
    if torch.cuda.is_available():
        model = model.to("cuda")  # type: ignore[arg-type]
    model.eval()
    backbone, config = model.backbone("policy"), model.generation_config_of("policy")
    ceilings = measure_ceilings(backbone.device, backbone.dtype)
    batch_tokens = settings.get("batch_tokens") or BATCH_TOKENS
    cases = [SpeedCase(**case) for case in settings["cases"]]
    first = cases[0]
    # Once for nothing: kernels are made and memory is touched.
    measure(backbone, config, SpeedCase(**asdict(first) | {"prefix": 20, "measured": 2}), ceilings)
    results = []
    for case in cases:
        result = measure(backbone, config, case, ceilings, batch_tokens)
        told(f"{case.readout}, {case.method}, prefix {case.prefix}, {case.measured} people: {result.seconds:.2f} s")
        results.append(asdict(result))
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "batch_tokens": batch_tokens,
        "ceilings": asdict(ceilings),
        "results": results,
    }


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    write_json(Path(sys.argv[2]), run(settings, told=lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
