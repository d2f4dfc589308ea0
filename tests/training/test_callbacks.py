"""Rollouts of validation events at every evaluation, and what follows: best checkpoint and early stopping."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("peft")

from made_trainer import SETTINGS, backbone, events, history, new_model, rows, trainer_of, weights
from made_transitions import made_event
from transformers import TrainerCallback

from mf_llm import IBTuneConfig, InputError, evaluate_rollouts, simulate
from mf_llm.training import callbacks
from mf_llm.training.callbacks import EarlyStopping, RolloutCallback, rollout_options

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return backbone(tmp_path_factory.mktemp("tiny"))


def other(n=4, split="train"):
    """Events of another data set, of other people."""
    return [made_event(f"other-{split}-{i}", 26, split=split) for i in range(n)]


def unlabelled(event):
    """The event without anything to count."""
    turns = [replace(turn, labels={}) for turn in event.turns]
    return replace(event, turns=tuple(turns), dimensions={})


SETS = {
    "threads": [*events(3), *events(3, "validation")],
    "others": [*other(3), *other(2, "validation"), made_event("short", 9, split="validation")],
    "only trained on": events(2),
}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
BY_GAIN = {"load_best_model_at_end": True, "metric_for_best_model": "eval_gain", "greater_is_better": True}


def untrained(base, folder, **changes):
    """A trainer whose adapters say something already."""
    return trainer_of(base, folder, model=new_model(base, spread=0.3), **changes)


# -- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchored", [False, True])
def test_gain_and_kl_are_those_of_the_evaluation_of_rollouts(base, tmp_path, anchored):
    trainer = untrained(base, tmp_path, anchored=anchored)
    callback = RolloutCallback(trainer, SETS, max_events=2, seed=5)
    assert [one.name for one in callback.data_sets] == ["threads", "others"]
    found = callback.judge()
    gains, kls = {}, {}
    for one in callback.data_sets:
        assert len(one.events) == 2 and {event.split for event in one.events} == {"validation"}
        config = one.config
        assert (config.signal, config.readout, config.anchored) == ("both", "exact", anchored)
        assert (config.warm_up, config.action, config.agents_per_step) == (8, "choice", SETTINGS.agents_per_step)
        assert (config.signal_max_tokens, config.max_prompt_tokens, config.seed) == (5, 400, 5)
        assert (config.anchor_prior is not None) == anchored
        rollouts = simulate(trainer.model, trainer.processor, one.events, config, progress=False, data_set=one.name)
        [summary] = evaluate_rollouts(rollouts, {one.name: SETS[one.name]}, n_bootstrap=10).summary["data_sets"]
        gains[one.name], kls[one.name] = (summary["scores"][name]["value"] for name in ("gain", "kl"))
    assert found.keys() == {"eval_gain", "eval_kl", "eval_gain_threads", "eval_gain_others"}
    for name, gain in gains.items():
        assert found[f"eval_gain_{name}"] == pytest.approx(gain, abs=1e-9)
    assert found["eval_gain"] == pytest.approx(sum(gains.values()) / 2, abs=1e-9)
    assert found["eval_kl"] == pytest.approx(sum(kls.values()) / 2, abs=1e-9)


def test_what_is_rolled_out_is_what_is_trained(base, tmp_path):
    args = trainer_of(base, tmp_path, target="action", max_texts=3, signal="text").args
    options = rollout_options(args, replace(SETTINGS, listed_actions=7, shown_answers=9))
    assert options["action"] == "auto" and options["writers"] == 3 and options["signal"] == "text"
    assert (options["listed_actions"], options["shown_answers"]) == (7, 9) and "choice_temperature" not in options
    args.choice_temperature = 1.5
    assert rollout_options(args, SETTINGS)["choice_temperature"] == 1.5
    args.target = "label"
    assert rollout_options(args, SETTINGS)["action"] == "choice"
    assert rollout_options(args, replace(SETTINGS, action="label_text"))["action"] == "label_text"
    assert rollout_options(args, SETTINGS)["writers"] == 0


def test_the_choice_of_events_is_keyed(base, tmp_path):
    trainer = untrained(base, tmp_path)
    many = {"threads": [*events(3), *events(9, "validation")]}

    def chosen(**options):
        [one] = RolloutCallback(trainer, many, **options).data_sets
        return [event.event_id for event in one.events]

    assert len(chosen()) == 4 and chosen() == chosen()
    assert any(chosen() != chosen(seed=seed) for seed in (1, 2, 3))
    assert len(chosen(max_events=20)) == 9
    [limited] = RolloutCallback(trainer, many, max_actions=20).data_sets
    assert limited.config.max_actions == 20
    assert max(row.turn for row in simulated(trainer, limited)) == 19


def simulated(trainer, one):
    rollouts = simulate(trainer.model, trainer.processor, one.events[:1], one.config, progress=False)
    return rollouts[0].actions


def test_surveys_are_judged_on_a_sample_of_their_last_wave(base, tmp_path):
    survey = [made_event(f"s{split}", waves=(9, 9, 12), split=split) for split in ("train", "validation")]
    trainer = untrained(base, tmp_path)
    [one] = RolloutCallback(trainer, {"survey": survey, "others": other(2)}).data_sets
    assert one.windows.waves and one.config.max_people_per_step == SETTINGS.max_people
    people = [row for row in simulated(trainer, one) if row.source == "simulated"]
    assert len(people) == SETTINGS.max_people and {row.wave for row in people} == {"w3"}


@pytest.mark.parametrize(
    "sets",
    [
        {"threads": events(3)},
        {"threads": [*events(3), made_event("short", 9, split="validation")]},
        {"threads": [unlabelled(event) for event in (*events(2), *events(2, "validation"))]},
    ],
)
def test_without_a_validation_event_that_can_be_judged_it_says_so(base, tmp_path, sets):
    with pytest.raises(InputError, match="`event_sets` must hold a validation event that is long enough"):
        RolloutCallback(untrained(base, tmp_path), sets)


def test_a_bound_that_leaves_nobody_to_simulate_is_refused_before_training(base, tmp_path):
    with pytest.raises(InputError, match="`warm_up` must leave somebody"):
        RolloutCallback(untrained(base, tmp_path), SETS, max_actions=8)
    with pytest.raises(InputError, match="long enough to be judged"):
        RolloutCallback(untrained(base, tmp_path), SETS, max_actions=15)  # half a window
    with pytest.raises(InputError, match="`max_events` must be"):
        RolloutCallback(untrained(base, tmp_path), SETS, max_events=0)


def test_processes_share_the_events_and_agree(base, tmp_path, monkeypatch):
    trainer = untrained(base, tmp_path)
    callback = RolloutCallback(trainer, SETS)
    alone = callback.judge()
    monkeypatch.setattr(IBTuneConfig, "world_size", 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(IBTuneConfig, "process_index", rank)
        shares.append(callback.judge_share())
    assert [len(share) for share in shares] == [2, 2, 1]  # of five events
    assert len({row[:2] for share in shares for row in share}) == 5
    monkeypatch.setattr(callback, "judge_share", lambda: shares[2])
    monkeypatch.setattr(callbacks, "gather_object", lambda share: [row for share in shares for row in share])
    assert callback.judge() == pytest.approx(alone, abs=1e-6)


# -- in training ------------------------------------------------------------------------------------------------------


def trained(base, folder, *, rollouts, **changes):
    trainer = trainer_of(
        base, folder, evaluated=rows(2, "validation"), max_steps=3, **(EVALUATED | {"save_strategy": "no"} | changes)
    )
    if rollouts:
        trainer.add_callback(RolloutCallback(trainer, SETS, max_events=1))
    trainer.train()
    return trainer


def test_training_goes_on_as_if_there_had_been_no_rollouts(base, tmp_path):
    with_them = trained(base, tmp_path / "a", rollouts=True, eval_on_start=True)
    without = trained(base, tmp_path / "b", rollouts=False, eval_on_start=True)
    gains = [entry for entry in history(with_them) if "eval_gain" in entry]
    assert [entry["step"] for entry in gains] == [0, 1, 2, 3]  # the first of them before any training
    assert len({entry["eval_gain"] for entry in gains}) > 1  # the model of each step is rolled out
    assert all(entry.keys() >= {"eval_kl", "eval_gain_threads", "eval_gain_others"} for entry in gains)
    assert [entry for entry in history(with_them) if "eval_gain" not in entry] == history(without)
    ours, theirs = weights(with_them.model), weights(without.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_random_states_and_modes_are_left_alone(base, tmp_path):
    trainer = untrained(base, tmp_path)
    callback = RolloutCallback(trainer, SETS, max_events=1)
    metrics = {"eval_loss": 1.0}
    for training in (True, False):
        trainer.model.train(training)
        before = torch.get_rng_state()
        callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics=metrics)
        assert torch.equal(before, torch.get_rng_state())
        assert all(module.training == training for module in trainer.model.modules())
        assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert metrics["eval_loss"] == 1.0 and metrics["eval_gain"] == trainer.state.log_history[-1]["eval_gain"]
    # An evaluation of something else is none of its business.
    elsewhere = {"test_loss": 1.0}
    callback.on_evaluate(trainer.args, trainer.state, trainer.control, metrics=elsewhere)
    assert elsewhere == {"test_loss": 1.0} and len(trainer.state.log_history) == 2


def scripted(base, folder, monkeypatch, gains, *, patience=None, more=(), **changes):
    """Training whose rollouts give these gains, one after the other."""
    values = iter(gains)
    monkeypatch.setattr(RolloutCallback, "judge", lambda self: {"eval_gain": next(values)})
    settings = {"max_steps": len(gains)} | EVALUATED | BY_GAIN | changes
    trainer = trainer_of(base, folder, evaluated=rows(2, "validation"), **settings)
    kept = []

    class Keep(TrainerCallback):
        def on_evaluate(self, *args, **kwargs):
            kept.append(weights(trainer.model))

    trainer.add_callback(RolloutCallback(trainer, SETS, max_events=1))
    trainer.add_callback(Keep())
    for callback in [EarlyStopping(patience)] if patience else []:
        trainer.add_callback(callback)
    return trainer, kept


def test_the_best_checkpoint_and_the_end_are_chosen_by_gain(base, tmp_path, monkeypatch):
    trainer, kept = scripted(base, tmp_path, monkeypatch, [-0.2, 0.1, 0.05, 0.1, 0.9], patience=2)
    trainer.train()
    assert trainer.state.global_step == 4 and len(kept) == 4  # 0.1 again is not better than 0.1
    assert trainer.state.best_metric == 0.1 and trainer.state.best_global_step == 2
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = weights(trainer.model)
    assert all(torch.equal(best[name], kept[1][name]) for name in best)
    assert any(not torch.equal(kept[3][name], kept[1][name]) for name in best)


def test_the_mean_fields_phase_does_not_end_the_training(base, tmp_path, monkeypatch):
    gains = [0.3, 0.2, 0.1, 0.1, 0.1, 0.2]
    trainer, kept = scripted(
        base, tmp_path, monkeypatch, gains, patience=2, schedule="sequential", mean_field_share=0.5
    )
    trainer.train()
    assert len(kept) == 5  # the third is made before the policy's first step; the fourth and fifth count


def test_patience_is_counted_on_when_a_run_is_resumed(base, tmp_path, monkeypatch):
    gains = [0.3, 0.2, 0.1, 0.0, 0.0, 0.0]
    first, _ = scripted(base, tmp_path, monkeypatch, gains, patience=3)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    first.add_callback(Stop())
    first.train()
    again, kept = scripted(base, tmp_path, monkeypatch, gains, patience=3)
    monkeypatch.setattr(RolloutCallback, "judge", lambda self: {"eval_gain": 0.0})
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 4 and len(kept) == 1

    # A checkpoint of a run without patience can be gone on with, too.
    plain, _ = scripted(base, tmp_path / "plain", monkeypatch, gains[:2])
    plain.train()
    again, kept = scripted(base, tmp_path / "plain", monkeypatch, gains, patience=1)
    monkeypatch.setattr(RolloutCallback, "judge", lambda self: {"eval_gain": 0.0})
    again.train(resume_from_checkpoint=str(tmp_path / "plain/checkpoint-1"))
    assert again.state.global_step == 2
