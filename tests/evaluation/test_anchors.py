"""The published anchors of the protocol on the shared research data, to 0.002."""

import os
from pathlib import Path

import numpy as np
import pytest

from mf_llm.evaluation import compare
from mf_llm.evaluation.forecasters import Training, dirichlet
from mf_llm.evaluation.protocol import choose_windows, plan_event
from mf_llm.evaluation.regression import CarryRegressed
from mf_llm.events import load_event_sets

FOLDER = Path(os.environ.get("MF_LLM_DATA") or Path(__file__).parents[3] / "shared/data")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs the shared research data in {FOLDER} (set MF_LLM_DATA)"),
]

# events, W/win, uniform, prior, carry, last, reference, alpha, best constant, sampling alone
ANCHORS = {
    "rumoureval2019": (31, "8/8", 0.934, 0.291, 0.259, 0.259, "carry(alpha=10)", 10, 0.098, 0.113),
    "covid19_rumours": (41, "16/16", 0.837, 0.322, 0.175, 0.175, "carry(alpha=10)", 10, 0.057, 0.065),
    "weibo_ced": (64, "48/16", 0.144, 0.123, 0.057, 0.069, "carry(alpha=10)", 10, 0.039, 0.032),
    "gop_debate": (11, "48/16", 0.268, 0.115, 0.078, 0.086, "carry(alpha=20)", 20, 0.060, 0.068),
    "airline": (20, "48/16", 0.401, 0.129, 0.098, 0.099, "carry(alpha=20)", 20, 0.076, 0.072),
    "deflategate": (12, "48/16", 0.403, 0.179, 0.166, 0.172, "prior", 100, 0.138, 0.139),
    "coachella": (4, "48/16", 0.204, 0.063, 0.064, 0.066, "prior", 100, 0.055, 0.068),
    "apple": (4, "48/16", 0.245, 0.103, 0.101, 0.102, "prior", 100, 0.087, 0.073),
}


@pytest.fixture(scope="module")
def event_sets():
    return load_event_sets(FOLDER)


@pytest.fixture(scope="module")
def summary(event_sets):
    return compare(event_sets).summary


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors(summary, name):
    n_events, windows, uniform, prior, carry, last, reference, alpha, best_constant, sampling = ANCHORS[name]
    record = next(record for record in summary["data_sets"] if record["data_set"] == name)
    assert (record["n_events"], record["windows"]) == (n_events, windows)
    assert (record["reference"], record["alpha"]) == (reference, alpha)
    found = [record["methods"][method]["kl"]["value"] for method in ("uniform", "prior", "carry", "last")]
    assert found == pytest.approx([uniform, prior, carry, last], abs=0.002)
    assert record["yardsticks"]["best_constant"]["value"] == pytest.approx(best_constant, abs=0.002)
    # Here it is the exact expectation, which `test_distributions` checks against 40,000 draws. The published value is
    # a Monte-Carlo mean; with the 4 events of apple it is off by 0.0044.
    tolerance = 0.005 if name == "apple" else 0.002
    assert record["yardsticks"]["sampling_alone"] == pytest.approx(sampling, abs=tolerance)


@pytest.mark.parametrize(("name", "uniform", "last", "moved"), [("us", 0.85, 0.36, 0.08), ("ri", 1.03, 0.50, 0.09)])
def test_survey_anchors(summary, event_sets, name, uniform, last, moved):
    event_id = f"vaccine-intention-{name}"
    (survey,) = summary["surveys"]
    whole = next(e for e in survey["events"] if e["event"] == event_id and e["subgroup"] is None)
    # Published with two decimals.
    assert whole["methods"]["uniform"]["kl"]["value"] == pytest.approx(uniform, abs=0.005)
    assert whole["methods"]["last"]["kl"]["value"] == pytest.approx(last, abs=0.005)
    events = event_sets["vaccine_survey"]
    windows = choose_windows(events)
    plan = plan_event(next(event for event in events if event.event_id == event_id), windows)
    training = Training(events, windows, plan.dimension, plan.categories)
    counts = plan.counts(plan.latest)
    will, vaccinated = plan.categories.index("definitely will"), plan.categories.index("vaccinated")
    counts[vaccinated] += counts[will]
    counts[will] = 0
    assert plan.score(dirichlet(counts, training.prior, 10)).mean() == pytest.approx(moved, abs=0.005)


@pytest.mark.parametrize(("name", "kl"), [("covid19_rumours", 0.164), ("rumoureval2019", 0.251)])
def test_carry_regressed_is_as_good_as_its_pilot(event_sets, name, kl):
    record = compare({name: event_sets[name]}, [CarryRegressed()], n_bootstrap=10).summary["data_sets"][0]
    # A pilot, not an anchor: its grid of penalties and its folds were not published.
    assert record["methods"]["carry-regressed"]["kl"]["value"] == pytest.approx(kl, abs=0.004)


def test_everything_is_judged(summary):
    assert summary["skipped"] == []
    assert np.isfinite(summary["overall"]["carry"]["S"]["value"])
