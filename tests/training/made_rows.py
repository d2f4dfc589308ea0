"""Transitions made by hand, as `build_transitions` would give them."""

import json

from datasets import Dataset

OPTIONS = ["support", "oppose", "question"]


def person(label, action="", state=None, weight=1.0):
    return {
        "state": json.dumps(state if state is not None else {"age": 30 + label}),
        "action": action,
        "label": label,
        "weight": weight,
    }


def transition(people, kind="label_text", **changes):
    row = {
        "event_id": "bridge",
        "data_set": "towns",
        "topic": "The council closes the bridge.",
        "language": "en",
        "dimension": "" if kind == "text" else "stance",
        "options": [] if kind == "text" else OPTIONS,
        "kind": kind,
        "silent": [],
        "draw": 0,
        "warm_up": 8,
        "history": [{"lines": ["a secret of the past"], "tally": "support: 50 %"}],
        "statistics": "another secret",
        "carry": [] if kind == "text" else [0.2, 0.3, 0.5],
        "target_counts": [],
        "people": people,
    }
    return row | changes


def crowd(n=12, draw=0, **changes):
    people = [person(i % 3, f"Word number {i}.", {"age": 20 + i}) for i in range(n)]
    return transition(people, draw=draw, **changes)


def rows_of_lengths(*lengths):
    return Dataset.from_dict({"input_ids": [[7] * n for n in lengths], "labels": [[7] * n for n in lengths]})
