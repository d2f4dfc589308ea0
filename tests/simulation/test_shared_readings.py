"""The seeds of an ensemble that ask a model the same ask it once, and get what each would get alone."""

import gc
import weakref

import pytest
from small_events import FAMILIES, adapted_model, new_model, outcome, processor_of, small_event

from mf_llm import SimulationConfig
from mf_llm.simulation import simulate
from mf_llm.simulation.engines import in_process

QUICK = {"max_new_tokens": 4, "signal_max_tokens": 6, "agents_per_step": 4, "warm_up": 8, "max_prompt_tokens": 600}
SEEDS = tuple(range(7))


def made(model, processor, event, config, seeds, together):
    """Rollouts of an ensemble, and the token ids that the policy's backbone read, padding included."""
    read = 0

    def count(module, args, kwargs):
        nonlocal read
        read += kwargs["input_ids"].numel()

    hook = model.backbone("policy").register_forward_pre_hook(count, with_kwargs=True)
    try:
        found = simulate(model, processor, event, config, seeds=seeds, events_together=together, progress=False)
    finally:
        hook.remove()
    return found, read


def side_by_side(model, processor, event, **settings):
    """Tokens that an ensemble reads, and those that its rollouts read one by one; they are the same rollouts."""
    config = SimulationConfig(**QUICK | settings)
    together, read = made(model, processor, event, config, SEEDS, len(SEEDS))
    alone, apart = [], 0
    for seed in SEEDS:
        [one], tokens = made(model, processor, event, config, [seed], 1)
        alone.append(one)
        apart += tokens
    for one, other in zip(together, alone, strict=True):
        assert outcome(one) == outcome(other)  # every share to the last bit, and the tokens of the rollout alone
    return read, apart, together


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_prompts_of_seeds_are_read_once(family):
    model, processor, event = new_model(family), processor_of(family), small_event(20)
    read, apart, found = side_by_side(model, processor, event, signal="statistics", action="choice")
    # Exact shares make the statistics, so that seeds which list the options alike go the same way to the end.
    orders = {tuple(row.probabilities for row in one.simulated()) for one in found}
    assert 1 < len(orders) < len(SEEDS)
    assert read <= apart * len(orders) / len(SEEDS)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"signal": "none"}, 0.35),
        ({"signal": "statistics", "anchored": True, "option_orders": 3}, 0.4),
        ({"signal": "statistics", "calibrated": True}, 0.2),
        ({"signal": "statistics", "readout": "sampled"}, 0.1),
        ({"signal": "both"}, 0.02),
        ({"signal": "text", "anchored": True}, 0.02),
        ({"signal": "statistics", "action": "label_text"}, 0.1),
        ({"signal": "text", "action": "text"}, 0.0),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_seeds_share_saves_tokens_whatever_is_simulated(settings, least):
    pytest.importorskip("peft")
    model, processor = adapted_model("qwen2"), processor_of("qwen2")
    read, apart, _ = side_by_side(model, processor, small_event(20), **{"action": "choice"} | settings)
    assert read <= (1 - least) * apart


def test_what_was_read_is_let_go():
    """Nothing of a simulation is held behind it, and only the step at hand while it goes on."""
    shared, sizes = [], []

    class Watched(in_process.SharedReadings):
        def __init__(self):
            super().__init__()
            shared.append(weakref.ref(self))

        def scores(self, *args):
            found = super().scores(*args)
            sizes.append((len(self.tuned), sum(len(known) for _, known in self._scores.values())))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_process, "SharedReadings", Watched)
        for signal in ("none", "statistics"):
            sizes.clear()
            config = SimulationConfig(**QUICK | {"signal": signal, "action": "choice"})
            made(new_model("qwen2"), processor_of("qwen2"), small_event(32), config, (0, 1), 1)
            # Two orders of one rollout: a topic, perhaps a signal, two endings; one reading of each.
            assert max(known for _, known in sizes) <= 2 * 2 and max(prefixes for prefixes, _ in sizes) <= 2 * 2 * 2
    gc.collect()
    assert len(shared) == 2 and all(one() is None for one in shared)
