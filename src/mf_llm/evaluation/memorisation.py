"""Memorisation probe: can a backbone continue the texts that it is judged on?

Every text is cut in the middle and read as plain text, without a chat turn. Four measures, means over texts:

* ``reproduced``: share of texts of which the greedy continuation begins with exactly the next 8 tokens. A model that
  can recite a text does this, and one that never saw it hardly does: the first half stands nowhere else in the data.
* ``common_prefix``: tokens that the greedy continuation (at most 32) shares with the text before it first differs.
  It shows recital that falls short of 8 tokens, and compared with train texts, by how much tuning has raised it.
* ``log_likelihood``: of the second half given the first, mean per token in nats. A text that is known by heart comes
  close to 0, whether or not the greedy path happens to follow it.
* ``gain``: ``log_likelihood`` minus that of the same second half behind the first half of another text of the data
  set. Whatever the first half brings back from memory is part of it, beside ordinary coherence: it bounds what memory
  contributes, it does not prove any.

Published splits were mostly made long after the texts: of a backbone that was not tuned, train and test texts should
come out alike. Where they do not, tuning (or the calendar) has left its mark. The row "known passages" is the
yardstick: English passages that every backbone has read. A small one does not recite even those, and then only the
likelihoods, held against theirs, tell anything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.halved_texts import PARTS, HalvedText, Sample, TextPool
from mf_llm.evaluation.intervals import N_BOOTSTRAP, Interval, event_draws, generator, interval
from mf_llm.evaluation.known_passages import YARDSTICK, known_passages
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.events.event import Event
from mf_llm.simulation.keyed_draws import permutation, stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mf_llm.models.encoding import DataEncoder

logger = logging.getLogger(__name__)

SCORES = ("reproduced", "common_prefix", "log_likelihood", "log_likelihood_other", "gain")
COLUMNS = (
    *("dataset", "split", "part", "backbone", "n", "n_events", "n_failed"),
    *(f"{score}{bound}" for score in SCORES for bound in ("", "_low", "_high")),
    *("seed", "versions"),
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MemorisationConfig:
    """What is probed, and how.

    Attributes:
        n_texts: at most so many texts of each data set and split; topics are all taken.
        splits: splits whose texts are continued.
        match: tokens that must be reproduced; each half of a text has at least so many.
        max_new_tokens: bound of a continuation.
        batch_tokens: bound of rows times row length.
        n_bootstrap: bootstrap samples.
        seed: of the samples, the control and the bootstrap.
    """

    n_texts: int = 100
    splits: tuple[str, ...] = ("test", "train")
    match: int = 8
    max_new_tokens: int = 32
    batch_tokens: int = 1024
    n_bootstrap: int = N_BOOTSTRAP
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_texts", "match", "batch_tokens", "n_bootstrap"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, got {getattr(self, name)}; nothing could be probed.")
        if self.max_new_tokens < self.match:
            raise InputError(
                f"`max_new_tokens` must be at least `match` = {self.match}, got {self.max_new_tokens}; no text could "
                "be reproduced."
            )


@dataclass
class MemorisationReport:
    """What the probe found; numbers only, no text.

    Attributes:
        rows: one dict per data set, split and part, with the keys `COLUMNS`. `n` texts of `n_events` events were
            scored; `n_failed` more gave something that is no number.
        summary: the configuration, backbone, versions and data hash; the same scores, and how many texts there were
            and were left out; what was skipped and why.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Writes ``memorisation.csv`` and ``memorisation.json``, each whole or not at all."""
        folder = Path(folder)
        write_csv(folder / "memorisation.csv", COLUMNS, self.rows)
        write_json(folder / "memorisation.json", self.summary)
        return folder

    def table(self, width: int = 120) -> str:
        """The scores as text for a terminal `width` columns wide."""
        from mf_llm.evaluation.tables import render, score

        match = self.summary["config"]["match"]
        columns = ["data set", "part", "split", "texts", f"{match} tokens", "common prefix", "log-likelihood", "gain"]
        body = [
            (
                record["data_set"],
                record["part"],
                record["split"] or "-",
                str(record["n"]),
                score(record["reproduced"], bounds=True),
                score(record["common_prefix"]),
                score(record["log_likelihood"]),
                score(record["gain"], bounds=True),
            )
            for record in self.summary["data_sets"]
        ]
        caption = (
            f"{match} tokens: share of texts continued word for word so far. common prefix: tokens, at most "
            f"{self.summary['config']['max_new_tokens']}. Log-likelihood of the second half and its gain over another "
            "text's first half: nats per token. 95 % bootstrap over events (exact binomial where "
            "no text or all of them count)."
        )
        text = render(f"Memorisation: {self.summary['backbone']}", columns, body, width, caption)
        skipped = [
            f"{entry['data_set']} ({entry['part']}, {entry['split']}) skipped: {entry['reason']}"
            for entry in self.summary["skipped"]
        ]
        return text.rstrip() + "\n" + "".join(f"{line}\n" for line in skipped)


def probe_memorisation(
    event_sets: Mapping[str, Sequence[Event]],
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    config: MemorisationConfig | None = None,
) -> MemorisationReport:
    """Lets a backbone continue texts and topics of every data set, and the passages of the yardstick.

    Args:
        event_sets: data set name -> its events, of all splits: texts that stand in several splits belong to none.
        backbone: a causal language model.
        tokenizer: its tokenizer.
        name: what the results call the backbone.
        config: what is probed.
    """
    from mf_llm.models.encoding import DataEncoder
    from mf_llm.simulation.provenance import weights_fingerprint

    config = config or MemorisationConfig()
    encoder = DataEncoder(tokenizer)
    made_with = versions(("torch", "transformers", "tokenizers", "numpy"))
    rows, records, skipped = [], [], []
    for (data_set, part, split), key, sample in _samples(event_sets, encoder, config):
        known = {"data_set": data_set, "part": part, "split": split}
        counts = {"n_distinct": sample.n_distinct, "left_out": sample.left_out}
        if len(sample.texts) < 2:
            # Of one text there is no other text as a control.
            reason = f"{len(sample.texts)} usable {part} of {sample.n_distinct} that stand in this split only"
            skipped.append({**known, "reason": reason, **counts})
            continue
        logger.info("%s, %s, %s: %d texts", data_set, part, split, len(sample.texts))
        scores = _scores(sample.texts, backbone, tokenizer, config, key)
        record = _record(sample.texts, scores, config, (data_set, part, str(split)))
        records.append({**known, **record, **counts})
        row = {"dataset": data_set, "part": part, "split": split, "backbone": name}
        row |= {column: record[column] for column in ("n", "n_events", "n_failed")}
        rows.append(row | _columns(record) | {"seed": config.seed, "versions": _words(made_with)})
    summary = {
        "backbone": name,
        "weights": weights_fingerprint(backbone),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "device": backbone.device.type,
        "config": asdict(config),
        "seed": config.seed,
        "versions": made_with,
        "data_hash": data_hash(event for events in event_sets.values() for event in events),
        "data_sets": records,
        "skipped": skipped,
    }
    return MemorisationReport(rows, summary)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of tokens that two rows share before they first differ."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def mean_log_likelihoods(
    backbone: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 1024,
) -> Floats:
    """``log p(continuation_i | context_i)`` divided by the tokens of the continuation, `[n]`, in nats.

    Args:
        backbone: a causal language model.
        contexts: n token lists, each of at least one token.
        continuations: n token lists, each of at least one token.
        batch_tokens: bound of rows times row length.
    """
    import torch

    from mf_llm.simulation.row_batches import row_batches

    rows = [[*context, *continuation] for context, continuation in zip(contexts, continuations, strict=True)]
    scores = np.empty(len(rows))
    for batch in row_batches(backbone, [None] * len(rows), rows, 0, batch_tokens):
        width = max(len(rows[i]) for i in batch)
        # Padding stands behind the text, where a causal model does not see it.
        ids = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in batch], device=backbone.device)
        place = torch.arange(1, width, device=backbone.device)
        start, end = (
            torch.tensor([len(part[i]) for i in batch], device=backbone.device)[:, None] for part in (contexts, rows)
        )
        mask = (torch.arange(width, device=backbone.device) < end).long()
        with torch.inference_mode():
            logits = backbone(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
        inside = (place >= start) & (place < end)
        means = torch.where(inside, -losses, 0).double().sum(dim=1) / inside.sum(dim=1)
        scores[batch] = means.cpu().numpy()
    return scores


def event_interval(values: Floats, events: Sequence[Event], rng: np.random.Generator, n_bootstrap: int) -> Interval:
    """Mean of values `[n]` of texts; events are resampled, each with all of its texts.

    Args:
        values: of the texts.
        events: the event of each text.
        rng: draws the events.
        n_bootstrap: bootstrap samples.
    """
    distinct = list({event.event_id: event for event in events}.values())
    index = {event.event_id: place for place, event in enumerate(distinct)}
    places = np.array([index[event.event_id] for event in events])
    sums, counts = np.bincount(places, values), np.bincount(places)
    draws = event_draws(distinct, rng, n_bootstrap)
    return interval(values.mean(), sums[draws].sum(axis=1) / counts[draws].sum(axis=1))


def _samples(
    event_sets: Mapping[str, Sequence[Event]], encoder: DataEncoder, config: MemorisationConfig
) -> Iterator[tuple[tuple[str, str, str | None], int, Sample]]:
    """What is continued: (data set, part, split), the key of its draws, and the texts; the yardstick comes last."""
    wanted = [(name, events, PARTS, config.splits) for name, events in event_sets.items()]
    for name, events, parts, splits in [*wanted, (YARDSTICK, known_passages(), PARTS[:1], (None,))]:
        for part in parts:
            pool = TextPool(events, part)
            for split in splits:
                key = stream_key(config.seed, "memorisation", name, part, str(split))
                n = config.n_texts if part == "texts" else None
                yield (name, part, split), key, pool.draw(split, encoder, n=n, least=config.match, key=key)


def _scores(
    texts: Sequence[HalvedText],
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: MemorisationConfig,
    key: int,
) -> dict[str, Floats]:
    """The scores `[n]` of the texts by their names `SCORES`; nan where the model gave no numbers."""
    from transformers import GenerationConfig

    from mf_llm.simulation.generation import generate_keyed

    # A text begins as the tokenizer begins one of its own accord. A chat model's first token may open a chat turn, and
    # is then not put in front.
    begin = [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id]
    contexts = [[*begin, *text.first] for text in texts]
    others: list[list[int]] = [[] for _ in texts]
    # A cycle through all texts in a drawn order: none is its own other.
    order = permutation(len(texts), key)
    for place, following in zip(order, [*order[1:], order[0]], strict=True):
        others[place] = contexts[following]
    seconds = [text.second for text in texts]
    answers = generate_keyed(
        backbone,
        None,
        contexts,
        [0] * len(texts),
        generation_config=GenerationConfig(do_sample=False),
        end_ids=[tokenizer.eos_token_id],
        max_new_tokens=config.max_new_tokens,
        batch_tokens=config.batch_tokens,
    )
    prefix = np.array(
        [
            np.nan if answer.failure else common_prefix(answer.ids, second)
            for answer, second in zip(answers, seconds, strict=True)
        ]
    )
    true, other = (
        mean_log_likelihoods(backbone, given, seconds, batch_tokens=config.batch_tokens)
        for given in (contexts, others)
    )
    reproduced = np.where(np.isnan(prefix), np.nan, prefix >= config.match)
    return dict(zip(SCORES, (reproduced, prefix, true, other, true - other), strict=True))


def _record(
    texts: Sequence[HalvedText], scores: Mapping[str, Floats], config: MemorisationConfig, names: Sequence[str]
) -> dict[str, Any]:
    """Means and intervals of the texts whose scores are all numbers."""
    valid = np.all([np.isfinite(values) for values in scores.values()], axis=0)
    events = [text.event for text, keep in zip(texts, valid, strict=True) if keep]
    record: dict[str, Any] = {
        "n": len(events),
        "n_events": len({event.event_id for event in events}),
        "n_failed": int((~valid).sum()),
    }
    for score, values in scores.items():
        found = Interval(float("nan"), None, None)
        if events:
            # The same events are drawn for every score.
            rng = generator(config.seed, "memorisation", *names)
            found = event_interval(values[valid], events, rng, config.n_bootstrap)
            if score == "reproduced" and found.low is None:
                found = _binomial(int(values[valid].sum()), len(events))
        record[score] = found.to_dict()
    return record


def _binomial(successes: int, n: int) -> Interval:
    """Clopper and Pearson's interval over texts: where no text or every text counts, resampling says nothing."""
    from scipy.stats import binomtest

    bounds = binomtest(successes, n).proportion_ci(method="exact")
    return Interval(successes / n, float(bounds.low), float(bounds.high))


def _columns(record: Mapping[str, Any]) -> dict[str, float | None]:
    bounds = {"": "value", "_low": "low", "_high": "high"}
    return {f"{score}{ending}": record[score][bound] for score in SCORES for ending, bound in bounds.items()}


def _words(made_with: Mapping[str, str]) -> str:
    return " ".join(f"{package}=={version}" for package, version in made_with.items())
