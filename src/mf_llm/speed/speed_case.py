"""`SpeedCase`: one thing to measure, and `SpeedResult`: what came out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METHODS = {
    "sampled": ("reference", "continuous batching", "mf_llm"),
    "exact": ("reference", "one pass per person", "mf_llm"),
}
NEW_TOKENS = 24
PERSON_TOKENS = 40
OPTION_TOKENS = 2
N_OPTIONS = 4
REFERENCE_BATCH = 16
# People whose likelihoods are kept, to see that the methods agree.
COMPARED = 4


@dataclass(frozen=True, kw_only=True)
class SpeedCase:
    """People of one step who act behind one shared prompt part.

    Attributes:
        readout: "sampled" (each person writes exactly `NEW_TOKENS` tokens) or "exact" (the likelihood of `N_OPTIONS`
            options of `OPTION_TOKENS` tokens).
        method: one of ``METHODS[readout]``:

            ==================== ==================================================================================
            reference            the recipe of the method's published code: the full prompt of each person, batches of
                                 16; sampled with plain ``generate``, exact with one row for each person and option
            one pass per person  exact: the full prompt of each person once, all options behind it
            continuous batching  sampled: ``generate_batch`` of transformers, which shares whole blocks of a prefix
            mf_llm               the shared prompt part once
            ==================== ==================================================================================
        prefix: tokens of the shared part; the person's part has `PERSON_TOKENS`.
        people: people of the step.
        measured: how many of them are really asked. The others' time is their share: the reference's batches are all
            alike, and at thousands of people it takes hours.
    """

    readout: str
    method: str
    prefix: int
    people: int
    measured: int


@dataclass(frozen=True, kw_only=True)
class SpeedResult:
    """What one case took.

    Attributes:
        seconds: for the measured people.
        prefill_seconds, decode_seconds: in the model, in passes over several tokens of a row and over one; None where
            a pass mixes both. The rest of `seconds` goes to drawing tokens and to everything else.
        prefill_tokens, decode_tokens: read in those passes; all of them under the first where a pass mixes both.
        compute_share: floating-point operations of these tokens' products with the weights, over what the machine
            does in this time in a large matrix product.
        bandwidth_share: bytes of the weights, read once in each pass, over what it copies in this time.
        peak_bytes: most memory at a time; of the device if there is one, else of the process, weights included.
        likelihoods: log-likelihoods of the options for the first `COMPARED` people, which are the same people in all
            cases with this prefix; None for written answers.
    """

    seconds: float
    prefill_seconds: float | None
    decode_seconds: float | None
    prefill_tokens: int
    decode_tokens: int | None
    compute_share: float
    bandwidth_share: float
    peak_bytes: int | None
    likelihoods: tuple[tuple[float, ...], ...] | None = None


def people_per_second(case: SpeedCase, result: SpeedResult) -> float:
    """People who act in a second."""
    return case.measured / result.seconds


def token_ids(case: SpeedCase, vocabulary: int) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Shared part, parts of the measured people, and options: the same numbers for every method.

    Which tokens they are makes no difference to the time.
    """
    draws = np.random.default_rng(0)
    low, high = vocabulary // 8, vocabulary // 2  # away from control tokens, which stand at either end
    prefix = draws.integers(low, high, case.prefix).tolist()
    options = draws.integers(low, high, (N_OPTIONS, OPTION_TOKENS)).tolist()
    people = draws.integers(low, high, (case.measured, PERSON_TOKENS)).tolist()
    return prefix, people, options
