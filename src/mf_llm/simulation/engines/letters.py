"""The exact readout from a server: probabilities of the options out of those of their letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mf_llm.endpoints.chat import TokenLogprob
from mf_llm.simulation.engines.chat_prompts import LETTERS

NO_OPTION = "no_option"
# What may stand around a letter in its token.
_AROUND = " \t\n▁ĠĊ().:;,\"'`*[]{}"


def option_probabilities(tokens: Sequence[TokenLogprob], order: Sequence[int]) -> tuple[np.ndarray | None, float]:
    """``pi(k | .)`` by letters: the probability of each option's letter as first word of the answer, normalised.

    A server tells the likeliest tokens only. A letter that is not among them has at most the probability of the least
    likely one that is, and gets that; so an option is never impossible. Tokens that spell the same letter count
    together.

    Args:
        tokens: the answer's tokens with their alternatives; blanks and reasoning in front of it are skipped.
        order: the order in which the K options were listed.

    Returns:
        ``[K]`` probabilities in the order of the options (None where no letter is among the likeliest tokens), and the
        probability of all letters that are: how much of the answer the readout knows about.
    """
    first = _first_word(tokens)
    if first is None:
        return None, 0.0
    letters = LETTERS[: len(order)]
    p = np.zeros(len(order))
    for token, log_p in first.top:
        place = letters.find(spelled) if (spelled := token.strip(_AROUND)) and len(spelled) == 1 else -1
        if place >= 0:
            p[order[place]] += math.exp(min(log_p, 0.0))
    mass = float(p.sum())
    if mass <= 0.0:
        return None, 0.0
    p[p == 0.0] = math.exp(min(min(log_p for _, log_p in first.top), 0.0))
    return p / p.sum(), min(mass, 1.0)


def _first_word(tokens: Sequence[TokenLogprob]) -> TokenLogprob | None:
    """The first token of the answer that is no blank, behind any reasoning."""
    text, start = "", 0
    for n, one in enumerate(tokens):
        text += one.token
        if text.rstrip().lower().endswith(("</think>", "</thinking>")):
            start = n + 1
    return next((one for one in tokens[start:] if one.token.strip(_AROUND)), None)
