"""Tables that people write (plans, bins, method lists, shifts, training tables): wrong values, and damaged files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from wrong_values import (
    FRACTIONS,
    LISTS,
    MAPPINGS,
    NOT_FINITE,
    NUMBERS,
    TEXTS,
    TRUTHS,
    check_refusal,
    damages,
    try_many,
)

from mf_llm.benchmark.method_list import load_method_list
from mf_llm.benchmark.training_runs import load_training_table
from mf_llm.errors import InputError
from mf_llm.forecasting.shifts import load_shifts
from mf_llm.interventions.plan import load_plan
from mf_llm.simulation.population_bins import check_bins, load_bins

pytestmark = pytest.mark.trust("inputs", "plans, bins, method lists, shifts and training tables with mistakes")

NO_MAPPING = NUMBERS | TRUTHS | TEXTS.filter(bool) | LISTS
NO_LIST = NUMBERS | TRUTHS | TEXTS | MAPPINGS
NO_TEXT = NUMBERS | TRUTHS | LISTS | MAPPINGS
NO_WORD = NO_TEXT | TEXTS
NO_STEP = TRUTHS | TEXTS | LISTS | MAPPINGS | FRACTIONS | NOT_FINITE | st.integers(max_value=-1) | st.just(2**63)
NO_COUNT = TRUTHS | TEXTS | LISTS | MAPPINGS | FRACTIONS | NOT_FINITE | st.integers(max_value=0)
NO_COST = TRUTHS | TEXTS | LISTS | MAPPINGS | NOT_FINITE | st.floats(-1e9, -1e-9)
NO_TRUTH = NUMBERS | TEXTS | LISTS | MAPPINGS
BLANK = st.sampled_from(["", " ", "\n"])

PLAN = {
    "event": "bridge",
    "target": {"category": "deny", "step": 4, "goal": "lower", "cost_weight": 0.5},
    "candidates": [
        {"name": "news", "cost": 1, "interventions": [{"step": 3, "until": 4, "topic": "It is true."}]},
        {"name": "voices", "interventions": [{"step": 3, "actions": [{"text": "True!", "label": "support",
        "times": 2}]}]},
        {"name": "others", "interventions": [{"step": 3, "people": {"profiles": [{"age": 30}], "share": 0.5}}]},
        {"name": "weather", "placebo": True, "interventions": [{"step": 4, "signal": "It is cloudy."}]},
    ],
}  # fmt: skip
WRONG_PLANS = {
    "event": NO_TEXT, "target": NO_MAPPING, "target.category": NO_TEXT, "target.step": NO_STEP, "target.goal": NO_WORD,
    "target.cost_weight": NO_COST, "target.stepp": NUMBERS, "candidates": NO_LIST | st.just([]), "more": NUMBERS,
    "candidates.0": NUMBERS | TEXTS | LISTS, "candidates.0.name": NO_TEXT | BLANK | st.just("voices"),
    "candidates.0.cost": NO_COST, "candidates.3.placebo": NO_TRUTH,
    "candidates.0.interventions": NO_LIST | st.just([]),
    "candidates.0.interventions.0": NUMBERS | TEXTS | LISTS, "candidates.0.interventions.0.step": NO_STEP,
    "candidates.0.interventions.0.until": NO_STEP | st.integers(0, 2), "candidates.0.interventions.0.signal": TEXTS,
    "candidates.0.interventions.0.topic": NO_TEXT | BLANK,
    "candidates.1.interventions.0.actions": NO_LIST | st.just([]),
    "candidates.1.interventions.0.actions.0": NUMBERS | TEXTS | LISTS,
    "candidates.1.interventions.0.actions.0.text": NO_TEXT, "candidates.1.interventions.0.actions.0.times": NO_COUNT,
    "candidates.1.interventions.0.actions.0.label": NO_TEXT,
    "candidates.1.interventions.0.actions.0.who": NUMBERS | TRUTHS | LISTS,
    "candidates.2.interventions.0.people": NO_MAPPING | st.just({}), "candidates.2.interventions.0.add": NUMBERS,
    "candidates.2.interventions.0.people.share": NO_COUNT.filter(lambda v: not isinstance(v, float) or not 0 < v <= 1),
    "candidates.2.interventions.0.people.profiles": NO_LIST | st.just([]),
    "candidates.2.interventions.0.people.profiles.0.age": LISTS | MAPPINGS | NOT_FINITE,
    "candidates.3.interventions.0.signal": NO_TEXT | BLANK,
}  # fmt: skip

BINS = {"age": [18, 30, 45, None], "job": {"care": ["nurse", "doctor"], "other": None}, "region": None}
WRONG_BINS = {
    "age": NUMBERS | TRUTHS | TEXTS | st.sampled_from([[], [1], [3, 2], [1, 1], [1, None, 2], ["a", "b"], [1, True]]),
    "age.1": TEXTS | TRUTHS | NOT_FINITE | st.sampled_from([10**400, 18, 99, None, [], {}]),
    "job": NUMBERS | TRUTHS | TEXTS, "job.care": NUMBERS | TRUTHS | TEXTS | MAPPINGS | st.none(),
    "job.other": st.just(["nurse"]) | NUMBERS, "colour": LISTS,
}  # fmt: skip

METHODS = {
    "options": {"readout": "exact", "action": "choice", "agents_per_step": 8},
    "data_sets": {"poll": {"max_people_per_step": 6}},
    "methods": {
        "carry": {"forecaster": "carry"}, "rule": {"annotator": "rule"}, "base": {"options": {"signal": "none"}},
        "mine": {"checkpoint": "{checkpoints}/t{seed}", "seeds": [0, 1], "roles": ["policy"], "data_sets": ["poll"]},
    },
    "pairs": [["mine", "base"]],
    "quick": {"methods": ["carry"], "options": {"signal_max_tokens": 4}, "data_sets": {"poll": {"max_actions": 20}}},
}  # fmt: skip
NO_OPTIONS = NO_MAPPING | st.sampled_from(
    [{"signal": "loud"}, {"agents_per_step": 0}, {"colour": 1}, {"readout": None}, {"anchored": "yes"}, {1: 2}]
)
WRONG_METHODS = {
    "options": NO_OPTIONS, "data_sets": NO_MAPPING, "data_sets.poll": NO_OPTIONS,
    "methods": NO_MAPPING | st.none() | st.just({}),
    "methods.base": NO_MAPPING, "methods.base.options": NO_OPTIONS, "methods.carry.forecaster": NO_WORD,
    "methods.rule.annotator": NO_WORD, "methods.mine.checkpoint": NO_TEXT | BLANK | st.just("one"),
    "methods.mine.seeds": NO_LIST | st.sampled_from([[], [0, 0], [1000], [-1], [0.5], ["0"], [True], [[0]]]),
    "methods.mine.roles": NO_LIST | st.sampled_from([["policies"], [1], [None], [[]]]), "methods.mine.speed": NUMBERS,
    "methods.mine.data_sets": NO_LIST | st.sampled_from([[1], [None]]), "methods.all": st.just({}), "more": NUMBERS,
    "methods.a/b": st.just({}), "pairs": NO_LIST.filter(lambda v: v is not None),
    "pairs.0": NO_LIST | st.sampled_from([[], ["mine"], ["mine", "mine"], ["mine", "nobody"], ["mine", 1], [[], []]]),
    "quick": NO_MAPPING, "quick.methods": NO_LIST | st.sampled_from([["nobody"], [1], [[]]]),
    "quick.options": NO_OPTIONS,
    "quick.data_sets": NO_MAPPING, "quick.data_sets.poll": NO_OPTIONS, "quick.more": NUMBERS,
}  # fmt: skip

SHIFTS = {
    "version": 1, "warm_up": 8, "n_people": 8,
    "shifts": {
        "debate": {"data_set": "d", "before": ["a"], "after": ["b"], "category": "positive", "news": "News.",
                   "known": "2015-08-06T12:00:00Z", "after_time": "2015-08-07"},
    },
}  # fmt: skip
NO_TIME = TRUTHS | LISTS | MAPPINGS | NOT_FINITE | st.sampled_from(["soon", "2015-13-01", 1e18, -1e300, 10**400])
WRONG_SHIFTS = {
    "version": NO_TEXT.filter(lambda v: v != 1) | TEXTS, "warm_up": NO_COUNT, "n_people": NO_COUNT,
    "shifts": NO_MAPPING,
    "shifts.debate": NO_MAPPING | st.just({}), "shifts.debate.before": NO_LIST | st.sampled_from([[1], [None], [[]]]),
    "shifts.debate.after": NO_LIST | st.sampled_from([[], [1], [None]]), "shifts.debate.known": NO_TIME | st.none(),
    "shifts.debate.after_time": NO_TIME, "shifts.debate.n_people": NO_COUNT, "more": NUMBERS,
    "shifts.debate.colour": TEXTS,
} | {f"shifts.debate.{name}": NO_TEXT | BLANK for name in ("data_set", "category", "news")}  # fmt: skip

TRAINING = {
    "common": {"target": "label"}, "adapters": {"r": 2, "alpha": 4, "layers": [0]},
    "data_sets": {"one": {"action": "choice", "horizon": "all"}, "two": None},
    "runs": {
        "field": {"schedule": "mean_field", "max_transitions": 8},
        "tuned": {"start": "field", "schedule": "policy", "transitions": {"shown_answers": 2},
                  "data_sets": {"one": {"max_states": 2}}},
        "sft": {"sft": True, "budget": "tuned"},
    },
}  # fmt: skip
NO_SETTINGS = NO_MAPPING | st.sampled_from([{"horizon": "far"}, {"max_states": 0}, {"colour": 1}, {"seed": 1}, {1: 2}])
WRONG_TRAINING = {
    "common": NO_MAPPING, "adapters": NO_MAPPING | st.just({"rank": 2}), "data_sets": NO_MAPPING,
    "data_sets.one": NO_SETTINGS, "data_sets.two": NO_SETTINGS, "runs": NO_MAPPING | st.just({}),
    "runs.field": NO_MAPPING | st.just({}) | st.none(), "runs.tuned.start": NO_WORD | st.sampled_from(["tuned",
    "sft"]),
    "runs.field.budget": st.sampled_from(["sft", "field", "nobody"]),
    "runs.field.max_transitions": NO_COUNT | st.none(),
    "runs.sft.sft": NO_TRUTH, "runs.sft.budget": NO_WORD | st.none(),
    "runs.tuned.data_sets": NO_MAPPING | st.just({"three": {}}),
    "runs.tuned.data_sets.one": NO_SETTINGS, "runs.tuned.transitions": NO_SETTINGS,
}  # fmt: skip


def read_bins(path: Path) -> Any:
    return check_bins(load_bins(path), ("age", "job", "region"))


READERS = {
    "plan": (load_plan, PLAN, WRONG_PLANS),
    "bins": (read_bins, BINS, WRONG_BINS),
    "methods": (load_method_list, METHODS, WRONG_METHODS),
    "shifts": (load_shifts, SHIFTS, WRONG_SHIFTS),
    "training": (load_training_table, TRAINING, WRONG_TRAINING),
}


def changed(record: Any, path: str, value: Any) -> Any:
    """The record with another value at a path."""
    found = copy.deepcopy(record)
    target, (*parents, last) = found, path.split(".")
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    target[int(last) if isinstance(target, list) else last] = value
    return found


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_one_wrong_value(tries, tmp_path, name, ending):
    read, right, wrong = READERS[name]
    path = tmp_path / f"table.{ending}"
    write = yaml.safe_dump if ending == "yaml" else json.dumps
    path.write_text(write(right), encoding="utf-8")
    read(path)

    def attempt(drawn):
        place, value = drawn
        # What a file cannot hold is written as an escape, in both formats.
        path.write_text(write(changed(right, place, value)), encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read(path)
        check_refusal(caught.value, *([str(path)] if name != "bins" else []))

    # None is "not given" in most places; where it is wrong it stands in the table above.
    drawn = st.sampled_from(sorted(wrong)).flatmap(lambda place: st.tuples(st.just(place), wrong[place]))
    try_many(tries, 15, 160, drawn, attempt)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_damaged_tables(tries, tmp_path, name, ending):
    """A letter may become another one: what is read must then be of the right form, or be refused."""
    read, right, _ = READERS[name]
    path = tmp_path / f"table.{ending}"
    content = (yaml.safe_dump(right) if ending == "yaml" else json.dumps(right, indent=1)).encode()

    def attempt(damage):
        path.write_bytes(damage(content))
        try:
            found = read(path)
        except InputError as error:
            check_refusal(error)
        else:
            assert type(found) is type(read_right)

    path.write_bytes(content)
    read_right = read(path)
    try_many(tries, 10, 60, damages(), attempt)


TRICKS = {
    "a key twice": "candidates: []\ncandidates: []\n",
    "a tag of Python": "!!python/object/apply:os.system ['true']",
    "a tag that does not fit": "candidates: !!bool maybe",
    "a whole number of nothing": "candidates: !!int ''",
    "a time that is none": "candidates: !!timestamp soon",
    "a date that is none": "candidates: 2001-99-99",
    "a list that holds itself": "candidates: &a [*a]",
    "a mapping that holds itself": "&a {candidates: *a}",
    "an unknown anchor": "candidates: *nobody",
    "a list as key": "? [a]\n: b\n",
    "half a pair": 'candidates: [{name: "\\ud800", interventions: [{step: 1, topic: a}]}]',
    "a NUL": 'candidates: [{name: "a\\0", interventions: [{step: 1, topic: a}]}]',
    "two documents": "a: 1\n---\nb: 2\n",
    "tabs": "candidates:\n\t- a\n",
    "an endless integer": "candidates: " + "9" * 5000,
    "deep nesting": "[" * 5000,
    "nothing": "",
    "a byte order of 16 bits": "candidates: []".encode("utf-16"),
    "a laugh": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
}
TRICKS_JSON = {
    "NaN": '{"target": NaN}',
    "Infinity": '{"candidates": [{"name": "a", "cost": Infinity}]}',
    "a key twice": '{"a": 1, "a": 2}',
    "half a pair": '{"candidates": [{"name": "a", "interventions": [{"step": 1, "topic": "\\ud800"}]}]}',
    "an endless integer": '{"a": ' + "9" * 5000 + "}",
    "deep nesting": "[" * 200_000,
    "no JSON": "candidates: []",
    "nothing": "",
}


@pytest.mark.parametrize("reader", READERS)
def test_tricks_of_the_formats(tries, tmp_path, reader):
    read = READERS[reader][0]
    for ending, tricks in (("yaml", TRICKS), ("json", TRICKS_JSON)):
        path = tmp_path / f"table.{ending}"
        for text in tricks.values():
            tries.add()
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            with pytest.raises(InputError) as caught:
                read(path)
            check_refusal(caught.value, str(path) if reader != "bins" else "")
    for path in (tmp_path / "missing.yaml", tmp_path):
        tries.add()
        with pytest.raises(InputError) as caught:
            read(path)
        check_refusal(caught.value, str(path))
