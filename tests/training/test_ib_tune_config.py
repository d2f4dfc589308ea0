"""The arguments of IB-Tune: what is refused, what is explained, and how they are read."""

import dataclasses
import json

import pytest
from transformers import HfArgumentParser, TrainingArguments

pytest.importorskip("peft")

from made_trainer import config

from mf_llm import IBTuneConfig, InputError, argument_checks

OWN = {field.name for field in dataclasses.fields(IBTuneConfig)} - {
    field.name for field in dataclasses.fields(TrainingArguments)
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schedule": "both"},
            "`schedule` must be one of sequential, alternate, joint, policy, mean_field, got 'both'",
        ),
        ({"signal": "recent"}, "`signal` must be one of text, statistics, both, none, got 'recent'"),
        ({"target": "text"}, "`target` must be one of label, action, got 'text'"),
        ({"signal": "none"}, "`schedule` must be 'policy' with signal='none', got 'joint'"),
        ({"signal": "statistics", "schedule": "sequential"}, "`schedule` must be 'policy' with signal='statistics'"),
        ({"num_signals": 1}, "`num_signals` must be at least 2, got 1"),
        ({"num_signals": 0, "schedule": "policy"}, "`num_signals` must be at least 1, got 0"),
        ({"beta": -1.0}, "`beta` must be at least 0, got -1.0"),
        ({"beta": float("nan")}, "`beta` must be a finite number, got nan"),
        ({"lambda_population": -0.1}, "`lambda_population` must be at least 0"),
        ({"lambda_perturbation": -1.0, "anchored": True}, "`lambda_perturbation` must be at least 0, got -1.0"),
        ({"lambda_perturbation": 2.0}, "`lambda_perturbation` must be 0 with anchored=False, got 2.0; the plain"),
        ({"mean_field_learning_rate": -1e-4}, "`mean_field_learning_rate` must be at least 0"),
        ({"mean_field_learning_rate": 1e-4, "schedule": "policy"}, "left out where no mean field is trained, got 0.0"),
        ({"signal_max_tokens": 0}, "`signal_max_tokens` must be at least 1"),
        ({"updates_per_draw": 0}, "`updates_per_draw` must be at least 1"),
        ({"max_ratio": 0.9}, "`max_ratio` must be at least 1"),
        ({"simulated_steps": 0}, "`simulated_steps` must be at least 1"),
        ({"max_texts": 0}, "`max_texts` must be at least 1"),
        ({"scoring_tokens": 0}, "`scoring_tokens` must be at least 1"),
        ({"mean_field_share": 1.1}, "`mean_field_share` must be between 0 and 1, got 1.1"),
        ({"simulated_history": -0.1}, "`simulated_history` must be between 0 and 1"),
        ({"signal_temperature": 0.0}, "`signal_temperature` must be more than 0, got 0.0; a signal that is not drawn"),
        ({"choice_temperature": 0.0}, "`choice_temperature` must be more than 0, got 0.0"),
        ({"choice_temperature": 2.0, "anchored": True}, "`choice_temperature` must be 1 with anchored=True, got 2.0"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` must be False"),
        (
            {"updates_per_draw": 4, "save_strategy": "steps", "save_steps": 10},
            r"`save_steps` must be a multiple of updates_per_draw \(4\), got 10",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        config(tmp_path, **changes)


def test_one_signal_is_enough_for_the_policy(tmp_path):
    assert config(tmp_path, schedule="policy", num_signals=1).trains == ("policy",)
    assert config(tmp_path, schedule="policy", signal="none").has_text is False
    assert config(tmp_path, updates_per_draw=4, save_strategy="epoch", save_steps=10).updates_per_draw == 4


@pytest.mark.parametrize(
    ("schedule", "trains", "unused"),
    [
        ("sequential", ("mean_field", "policy"), True),
        ("alternate", ("mean_field", "policy"), True),
        ("joint", ("mean_field", "policy"), None),
        ("policy", ("policy",), None),
        ("mean_field", ("mean_field",), None),
    ],
)
def test_what_follows_from_the_schedule(tmp_path, schedule, trains, unused):
    args = config(tmp_path, schedule=schedule)
    assert args.trains == trains and args.ddp_find_unused_parameters is unused
    assert config(tmp_path, schedule=schedule, ddp_find_unused_parameters=False).ddp_find_unused_parameters is False


def test_every_option_is_explained():
    fields = {field.name: field for field in dataclasses.fields(IBTuneConfig)}
    assert {"beta", "schedule", "num_signals", "simulated_history", "scoring_tokens"} <= OWN
    for name in OWN:
        assert len(fields[name].metadata["help"]) > 15, name
        assert f"        {name}: " in IBTuneConfig.__doc__, name


def test_options_are_read_from_a_command_line(tmp_path):
    parser = HfArgumentParser(IBTuneConfig)
    line = ["--schedule", "alternate", "--beta", "16", "--anchored", "true", "--updates_per_draw", "2"]
    (args,) = parser.parse_args_into_dataclasses([*line, "--output_dir", str(tmp_path), "--use_cpu", "true"])
    assert (args.schedule, args.beta, args.anchored, args.updates_per_draw) == ("alternate", 16.0, True, 2)
    assert args.learning_rate == 2e-4 and args.per_device_train_batch_size == 8
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses(["--schedule", "both"])


def test_options_survive_json(tmp_path):
    args = config(tmp_path, schedule="alternate", signal_temperature=0.7)
    values = json.loads(args.to_json_string())
    again = IBTuneConfig(**{name: values[name] for name in OWN}, output_dir=str(tmp_path), use_cpu=True)
    assert {name: getattr(again, name) for name in OWN} == {name: getattr(args, name) for name in OWN}


def test_checks_hold_where_an_argument_parser_was_there_first(tmp_path):
    """Parsers of transformers put classes in the place of the annotations' texts."""
    argument_checks._checked_fields.cache_clear()
    HfArgumentParser(IBTuneConfig)
    with pytest.raises(InputError, match="`beta` must be a finite number, got nan"):
        IBTuneConfig(output_dir=str(tmp_path), beta=float("nan"))
