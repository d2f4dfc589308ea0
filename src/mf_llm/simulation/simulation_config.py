"""`SimulationConfig`: how an event is simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mf_llm.argument_checks import check_types, check_whole
from mf_llm.errors import InputError
from mf_llm.events.validation import show

SIGNALS = ("text", "statistics", "both", "none", "recent", "popular")
READOUTS = ("sampled", "exact")
ACTIONS = ("auto", "text", "choice", "label_text")
STEPS = ("auto", "count", "time", "wave")
PEOPLE = ("actual", "resampled")
ANCHORS = ("carry", "carry-regressed", "probe")
_SHORTEST_STEP = 0.001
# More only fills the prompt: shares are then shown to half a percent.
_MOST_ANSWERS = 200


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """How an event is simulated.

    Attributes:
        signal: what people see of the population: "text" (written by the mean-field model), "statistics" (shares in
            words and numbers), "both"; or the baselines "none" (topic and profile only), "recent" (the last 5
            actions) and "popular" (the 5 most echoed or most followed of the last 30 actions).
        shown_answers: with "statistics" and "both", so many answers stand below the shares, of each category as many
            as its share says (so far; in surveys and populations of the latest step), in the words with which people
            answer. A language model reads proportions out of what it has seen answered better than out of numbers.
        readout: "exact" (probabilities of all options) or "sampled" (the drawn action counts).
        anchored: perturb the carry-forward share of the warm-up by what fine-tuning changed, instead of reading the
            population from the language model alone. Without adapters this is exactly the carry-forward share.
        anchor: what is perturbed: "carry", the carry-forward share, or what a forecaster that was fitted on training
            events says of it: "carry-regressed" (`mf_llm.evaluation.regression`: how crowds left their warm-up there),
            or "probe" (`mf_llm.evaluation.probe`), which reads the topic and the texts of the warm-up, too.
        calibrated: divide the likelihood of each option by its likelihood under a prompt without content (topic "N/A",
            nothing of the population, "a member of the public") and the same option order, before normalising
            (content-free calibration, Zhao et al. 2021, arXiv 2102.09690): against the options that a backbone likes
            whatever the topic. Not together with `anchored`, where fine-tuning is compared with its base instead.
        choice_temperature: divides the log-likelihoods of the options before they are normalised (temperature scaling,
            Guo et al. 2017, arXiv 1706.04599): above 1 for a model that is too sure of the common answers. Not with
            `anchored`, where likelihoods are compared with those of the base.
        anchor_prior: prior shares of the categories for the carry-forward share (from training events); uniform by
            default.
        anchor_strength: number of pseudo-actions `alpha` of the prior.
        anchor_weights: for "carry-regressed", category -> its K + 1 weights: of the log-odds of the categories'
            carry-forward shares, in the order of the event's dimension, then a constant; for "probe" then one for each
            text feature. `protocol_config` fits them.
        anchor_features: for "probe", event id -> what was read of its topic and of the texts of its warm-up, d numbers
            (`protocol_config` reads them). A rollout keeps those of its event.
        action: what an action is: "choice", "label_text" (a label, then text), "text", or "auto": "text" without a
            dimension, "choice" if nobody in the warm-up wrote anything, else "label_text".
        dimension: the dimension that is read; the event's first by default.
        steps: who acts together: "count" (`agents_per_step` in a row), "time" (slots of `seconds_per_step`), "wave",
            or "auto" (waves where every turn has one, else count). With "time", the arrival times of people decide who
            shares a step, and nothing else.
        agents_per_step: people in a step ("count"); 16 in the paper.
        seconds_per_step: length of a time slot in seconds ("time").
        warm_up: how much of the real event is fed in first: a number of actions (labelled ones where the event has
            labels), or with waves the name of the last warm-up wave. By default all waves but the last, else the
            protocol's rule for the event's length (8, 16 or 48).
        max_actions: simulate at most this many actions of the event, warm-up included.
        max_people_per_step: simulate at most this many people of a step (everybody by default): of a wave a keyed
            sample that keeps its survey weights, of other steps people at equal distances, the first one keyed. They
            stand for the others, also where a window is judged.
        people: whose profiles act after the warm-up: "actual" (those who came, at their place), or "resampled" (drawn
            from the warm-up, in surveys from its last wave by weight): then nothing of who shows up later is used but
            how many.
        wording: which words the prompts are made of (an index into `mf_llm.models.wordings.WORDINGS`). Models are
            trained with 0; others show how far a result depends on the words.
        seed: seed of the keyed randomness.
        warm_up_seed: seed of the signals that are written in the warm-up; `seed` by default. With one for all seeds of
            an ensemble its rollouts set out from one warm-up, which is written once, where they stand side by side:
            cheaper, and the bands of a forecast then do not hold what other signals of the warm-up would have changed.
        option_orders: in how many orders the options are listed, against position bias: a keyed order and its reverse
            for 2, otherwise cyclic shifts. The people of a step take turns; a population's states are read in each.
        listed_actions: how many actions of a step the mean-field model reads (a keyed weighted sample if there are
            more; the shares of all of them are always given). Of a population, so many people are heard.
        writers: with labels and texts, at most this many people of a step write a text, a keyed sample; the others
            answer with their label alone (0: nobody writes). Everybody by default. Texts are what a rollout spends
            most of its time on, and of a large step the mean-field model reads `listed_actions` at most. Labels and
            probabilities of a step do not change with it, later ones do as far as signals tell of texts.
        max_new_tokens: bound of a person's text; the policy's generation config by default.
        signal_max_tokens: bound of a signal; the mean-field model's generation config by default.
        max_prompt_tokens, max_state_tokens, max_action_tokens: see `PromptLimits`.
        batch_tokens: tokens per batch (cached prefix included). Changes speed and memory, not results, except for
            rounding: in float32 it is far below what changes a draw; in bfloat16 draws may differ.

    Examples:
        >>> SimulationConfig(readout="sampled", seed=3).changes()
        {'readout': 'sampled', 'seed': 3}
    """

    signal: str = "text"
    shown_answers: int = 0
    readout: str = "exact"
    anchored: bool = False
    anchor: str = "carry"
    calibrated: bool = False
    choice_temperature: float = 1.0
    anchor_prior: Mapping[str, float] | None = None
    anchor_strength: float = 10.0
    anchor_weights: Mapping[str, Sequence[float]] | None = None
    anchor_features: Mapping[str, Sequence[float]] | None = None
    action: str = "auto"
    dimension: str | None = None
    steps: str = "auto"
    agents_per_step: int = 16
    seconds_per_step: float | None = None
    warm_up: int | str | None = None
    max_actions: int | None = None
    max_people_per_step: int | None = None
    people: str = "actual"
    wording: int = 0
    seed: int = 0
    warm_up_seed: int | None = None
    option_orders: int = 2
    listed_actions: int = 16
    writers: int | None = None
    max_new_tokens: int | None = None
    signal_max_tokens: int | None = None
    max_prompt_tokens: int = 1024
    max_state_tokens: int = 256
    max_action_tokens: int = 64
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        allowed_words = {"signal": SIGNALS, "readout": READOUTS, "anchor": ANCHORS}
        allowed_words |= {"action": ACTIONS, "steps": STEPS, "people": PEOPLE}
        for name, allowed in allowed_words.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"`{name}` must be one of {', '.join(allowed)}, got {show(getattr(self, name))}.")
        whole = ("agents_per_step", "option_orders", "listed_actions", "max_prompt_tokens", "max_state_tokens")
        for name in (*whole, "max_action_tokens", "batch_tokens"):
            check_whole(name, getattr(self, name), minimum=1)
        for name in ("max_actions", "max_people_per_step", "max_new_tokens", "signal_max_tokens"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), minimum=1)
        check_types(self, ("anchored", "calibrated", "choice_temperature", "anchor_prior", "anchor_strength"))
        check_types(self, ("anchor_weights", "anchor_features", "dimension", "seconds_per_step"))
        check_whole("seed", self.seed, minimum=0)
        if self.warm_up_seed is not None:
            check_whole("warm_up_seed", self.warm_up_seed, minimum=0)
        check_whole("wording", self.wording, minimum=0)
        check_shown_answers(self.shown_answers)
        if self.writers is not None:
            check_whole("writers", self.writers, minimum=0)
        if self.calibrated and (self.anchored or self.action == "text"):
            other = "anchored=True" if self.anchored else 'action="text"'
            raise InputError(
                f"`calibrated` must be False with {other}, got True; there is nothing to calibrate; leave one of them "
                "out."
            )
        check_choice_temperature(self.choice_temperature, self.anchored)
        if isinstance(self.warm_up, bool) or not isinstance(self.warm_up, int | str | None):
            raise InputError(f"`warm_up` must be a number of actions or the name of a wave, got {show(self.warm_up)}.")
        if isinstance(self.warm_up, int) and self.warm_up < 0:
            raise InputError(f"`warm_up` must not be negative, got {show(self.warm_up)}; 0 starts from nothing.")
        if isinstance(self.warm_up, int):
            check_whole("warm_up", self.warm_up, minimum=0)
        seconds = self.seconds_per_step
        if (seconds is None and self.steps == "time") or (seconds is not None and seconds < _SHORTEST_STEP):
            raise InputError(
                f'`seconds_per_step` must be a positive number with steps="time" (a thousandth or more), got '
                f"{seconds!r}; the length of a step is not known; set it (3600 for an hour)."
            )
        if self.anchor_prior is not None and not all(share > 0 for share in self.anchor_prior.values()):
            raise InputError(
                f"`anchor_prior` must give a positive share to each category, got {dict(self.anchor_prior)}; the "
                "anchor is not defined."
            )
        if self.anchor != "carry" and not self.anchored:
            raise InputError(
                f'`anchor` must be "carry" without anchored=True, got {self.anchor!r}; a plain readout has none; '
                "leave it out, or ask for the anchored readout."
            )
        if not self.anchor_strength > 0:
            raise InputError(
                f"`anchor_strength` must be a positive number, got {self.anchor_strength!r}; 10 is a good start."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        record = asdict(self)
        if self.anchor_prior is not None:
            record["anchor_prior"] = dict(self.anchor_prior)
        for name in ("anchor_weights", "anchor_features"):
            if record[name] is not None:
                record[name] = {key: list(row) for key, row in getattr(self, name).items()}
        return record

    def changes(self) -> dict[str, Any]:
        """The fields that are not as by default: what names a simulation, also when fields are added later."""
        default = SimulationConfig().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != default[name]}


def check_shown_answers(count: int) -> None:
    """Refuses a number of shown answers that no prompt can hold.

    Raises:
        InputError: if it is not between 0 and 200.
    """
    check_whole("shown_answers", count, minimum=0)
    if count > _MOST_ANSWERS:
        raise InputError(
            f"`shown_answers` must be at most {_MOST_ANSWERS}, got {show(count)}; a prompt would hold nothing else; "
            "32 is a good start."
        )


def check_choice_temperature(temperature: float, anchored: bool) -> None:
    """Refuses a temperature that nothing can be divided by, or that an anchored readout has no use for.

    Raises:
        InputError: if it is not more than 0, or not 1 for an anchored readout.
    """
    if not temperature > 0:
        raise InputError(f"`choice_temperature` must be more than 0, got {temperature!r}; 1 changes nothing.")
    if anchored and temperature != 1:
        raise InputError(
            f"`choice_temperature` must be 1 with anchored=True, got {temperature!r}; an anchored readout takes its "
            "shares from the warm-up; leave one of them out."
        )
