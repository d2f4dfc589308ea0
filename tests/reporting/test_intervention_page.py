"""The report of a plan: what it recommends in each case, whose numbers it shows, and what it warns of."""

import json
import re
from dataclasses import replace

import pytest
from made_events import make_event
from test_report import Page, read

from made_effects import CATEGORIES, N_STEPS, N_WARM_UP, made_effects, make_plan
from mf_llm import InputError
from mf_llm.evaluation.comparison import compare
from mf_llm.interventions import (
    AddedAction,
    AddedActions,
    AmendedSignal,
    Candidate,
    ChangedPeople,
    ReplacedSignal,
    Target,
    TopicLine,
)
from mf_llm.interventions.effects import paired_interval
from mf_llm.interventions.ranking import rank
from mf_llm.interventions.recommendation import recommendation
from mf_llm.reporting.effect_sections import bounds_of, points_of
from mf_llm.reporting.intervention_page import write_intervention_report
from mf_llm.reporting.intervention_words import in_words

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

SCRIPT = "<script>alert('x')</script>"
CORRECTION = Candidate(name="correction", cost=1, interventions=(TopicLine(step=5, topic="It takes eight months."),))
VOICES = Candidate(
    name="voices",
    cost=3,
    interventions=(
        AddedActions(
            step=5,
            until=6,
            actions=[AddedAction(text=f"Cracked {SCRIPT}", label="support", who={"occupation": "engineer"}, times=2)],
        ),
    ),
)
WEATHER = Candidate(name="weather", placebo=True, interventions=(TopicLine(step=5, topic="It is cloudy."),))
NOTHING = (0.0, 0.0, 0.0, 0.0)
SMALL = (0.001, -0.001, 0.0, 0.0)


def page_of(path, plan, parents, branches, effects, ranking, comparison=None) -> Page:
    """The page, whose tags are closed in their order."""
    return read(
        write_intervention_report(
            path / "report.html",
            plan=plan,
            effects=effects,
            ranking=ranking,
            parents=parents,
            branches=branches,
            command="mf-llm intervene runs/bridge --plan 'a plan.yaml'",
            comparison=comparison,
        )
    )


def write(
    path, changes, *, candidates=(CORRECTION, VOICES, WEATHER), comparison=None, ranked=True, target=None, **made
):
    """The page of a plan whose candidates change the shares so; with it the effects and the ranking."""
    plan = make_plan(*candidates, **(target or {}))
    parents, branches, effects = made_effects(plan, changes, **made)
    ranking = rank(plan, effects, n_rounds=2) if ranked else None
    shown = plan if ranked else replace(plan, target=None)
    return page_of(path, shown, parents, branches, effects, ranking, comparison), effects, ranking


def summary(page: Page) -> str:
    """What stands in the box at the top."""
    return page.text.partition("What was found")[2].partition("Candidates, the best first")[0]


def test_a_clear_winner_is_recommended_with_the_numbers_of_the_ranking(tmp_path):
    changes = {"correction": (0.06, -0.08, 0, 0.02), "voices": (0.02, -0.02, 0, 0), "weather": SMALL}
    page, effects, ranking = write(tmp_path, changes, seeds={"voices": 4})
    best, voices, weather = ranking.ranked
    assert ranking.recommended is best and not ranking.equals
    said = summary(page)
    assert recommendation(ranking) in said and "To lower the share of oppose in steps 6 to 10: correction, " in said
    assert "correction costs 1. Costs do not count in the order" in said
    assert f"Placebo check: weather {points_of(weather.effect.value)} points {bounds_of(weather.effect)}; " in said
    assert "contains zero, as it should" in said
    assert "Dominated by one that costs no more and does no worse on average: voices." in said
    for one in ranking.ranked:
        assert f"{points_of(one.effect.value)} {bounds_of(one.effect)}" in page.text.replace(" (best)", "")
    # The best is marked; who was stopped early is told.
    assert f"correction {points_of(best.effect.value)} (best) {bounds_of(best.effect)} – 1 8 – " in page.text
    assert "voices stopped after 4 of 8 seeds " in page.text
    assert f"{points_of(voices.behind.value)} {bounds_of(voices.behind)} 3 4 correction" in page.text
    assert points_of(best.effect.value) == "−8.0" and best.effect.value == pytest.approx(-0.08)
    # Every category at the target: intervals of each by itself.
    for category in CATEGORIES:
        target = Target(category=category, steps=(6, 10))
        effect = paired_interval(effects.at("correction", target))
        assert f"{points_of(effect.value)} {bounds_of(effect)}" in page.text
    step = paired_interval(effects.differences("correction")[:, 9 - N_WARM_UP, 1])
    without = effects.without["correction"][:, 9 - N_WARM_UP, 1].mean()
    assert re.search(rf"step 9 {without:.1%} {points_of(step.value)} {re.escape(bounds_of(step))}", page.text)
    # Before anything is done there is no effect.
    assert re.search(r"step 4 \d+\.\d% – – – ", page.text)


def test_a_tie_is_told(tmp_path):
    changes = {"correction": (0.05, -0.05, 0, 0), "voices": (0.052, -0.052, 0, 0), "weather": SMALL}
    page, _, ranking = write(tmp_path, changes, noise=0.02)
    assert ranking.recommended.name == "voices" and ranking.equals == ("correction",)
    assert "It cannot be told from correction." in summary(page)
    assert recommendation(ranking) in summary(page)


def test_nothing_helps(tmp_path):
    page, _, ranking = write(tmp_path, {"correction": SMALL, "voices": (-0.05, 0.05, 0, 0), "weather": SMALL})
    assert ranking.recommended is None
    assert "Nothing clearly does better than doing nothing" in summary(page)
    assert " costs " not in summary(page).partition("Placebo")[0] and "(best)" not in page.text


def test_a_placebo_that_moves_the_target_spoils_everything(tmp_path):
    changes = {"correction": (0.06, -0.08, 0, 0.02), "voices": SMALL, "weather": (0.04, -0.04, 0, 0)}
    page, _, ranking = write(tmp_path, changes)
    assert ranking.recommended is not None
    said = summary(page)
    assert "Nothing can be recommended: weather" in said and "correction costs" not in said
    effect = ranking.ranked[-1].effect
    assert f"Placebo check failed: weather {points_of(effect.value)} points {bounds_of(effect)}; " in said
    assert "(best)" not in page.text
    assert [attrs for tag, attrs in page.tags if tag == "td" and attrs.get("class", "").strip() == "less"]


def test_without_a_placebo_or_with_one_seed_nothing_is_checked(tmp_path):
    changes = {"correction": (0.06, -0.08, 0, 0.02), "voices": SMALL, "weather": SMALL}
    page, _, _ = write(tmp_path, changes, candidates=(CORRECTION, VOICES))
    assert "No placebo is in the plan" in summary(page) and "Add a candidate with placebo: true" in page.text
    page, _, ranking = write(tmp_path, changes, n_seeds=1)
    assert ranking.best.effect.low is None
    assert "With one seed" in summary(page) and "nothing is checked" in summary(page)
    assert "no interval: one seed" in page.text and "nan" not in page.text


def test_net_effects_stand_beside_costs_that_count(tmp_path):
    changes = {"correction": (0.04, -0.06, 0, 0.02), "voices": (0.08, -0.08, 0, 0), "weather": SMALL}
    page, _, ranking = write(tmp_path, changes, target={"cost_weight": 0.015})
    assert [one.name for one in ranking.ranked] == ["correction", "voices", "weather"]
    assert ranking.best.net == pytest.approx(0.045)
    assert "At 1.5 points for each unit of cost, +4.5 points are left (net)." in summary(page)
    assert re.search(r"correction −6\.0 \(best\) \[.*?\] – 1 \+4\.5 8 ", page.text)


def test_without_a_target_effects_are_told_and_nothing_is_ranked(tmp_path):
    changes = {"correction": (0.06, -0.08, 0, 0.02), "voices": NOTHING, "weather": SMALL}
    page, effects, _ = write(tmp_path, changes, ranked=False)
    assert "no target: effects were measured, and nothing is ranked" in page.text
    assert "Candidates, the best first" not in page.text and "Effects on every category at step 10" in page.text
    last = paired_interval(effects.differences("correction")[:, -1, 3])
    assert f"{points_of(last.value)} {bounds_of(last)}" in page.text
    assert re.search(r"Placebo check: weather .* at step 10; the interval contains zero", page.text)
    # The first candidate is the one that is shown.
    assert "without and with “correction”" in page.text
    page, _, _ = write(tmp_path, changes | {"weather": (0.0, -0.03, 0.03, 0.0)}, ranked=False)
    assert re.search(
        r"Placebo check failed: weather \S+3\.0 points \[.*?\] on (oppose|question) at step 10", page.text
    )


def test_who_changed_nothing_is_told(tmp_path):
    changes = {"correction": (0.06, -0.08, 0, 0.02), "voices": NOTHING, "weather": NOTHING}
    page, _, _ = write(tmp_path, changes, noise=0.0)
    assert "voices and weather changed nothing at all, in no seed and at no step" in page.text
    assert "correction and" not in page.text


def test_texts_of_a_plan_stay_texts(tmp_path):
    news = Candidate(name=f"<b>news</b> {SCRIPT}", interventions=(TopicLine(step=5, topic=f"All of it {SCRIPT} $x$"),))
    changes = {news.name: (0.06, -0.08, 0, 0.02), "voices": SMALL, "weather": SMALL}
    page, _, _ = write(tmp_path, changes, candidates=(news, VOICES, WEATHER))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and "<b>news" not in html
    assert "the topic gets the line “All of it <script>alert('x')</script> $x$”" in page.text
    assert (
        "2 more people (occupation: engineer) act, with the answer “support” and the text “Cracked <script>"
        in page.text
    )
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert all(image["src"].startswith("data:image/svg+xml;base64,") and image["alt"] for image in page.all("img"))
    assert len(page.all("img")) == 3
    assert {link["href"][1:] for link in page.all("a")} <= {attrs["id"] for _, attrs in page.tags if "id" in attrs}


def test_equal_results_give_equal_bytes(tmp_path):
    changes = {"correction": (0.06, -0.08, 0, 0.02), "voices": SMALL, "weather": SMALL}
    pages = []
    for name in ("a", "b"):
        write(tmp_path / name, changes)
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_same_people_stand_side_by_side(tmp_path):
    changes = {"correction": (0.02, -0.02, 0, 0), "voices": (0.06, -0.08, 0, 0.02), "weather": SMALL}
    page, effects, ranking = write(tmp_path, changes)
    assert ranking.best.name == "voices" and "Seed 0, without and with “voices”" in page.text
    # The first and the last of those who act after the intervention, with the probability of their likeliest answer.
    for step, turn in ((5, 20), (10, 43)):
        k = CATEGORIES.index("oppose")
        shares = [found["voices"][0, step - N_WARM_UP, k] for found in (effects.without, effects.changed)]
        assert f"step {step}, person {turn + 1} " in page.text
        assert re.search(
            rf"without: likeliest: oppose \({shares[0]:.0%}\) Person {turn} wrote: [^:]*"
            rf"with: likeliest: (oppose|support) \(\d+%\) Person {turn} with voices wrote: ",
            page.text,
        )
    assert "without: Before step 5 people wrote that they need the bridge." in page.text
    assert "with: Before step 5 people with voices wrote that they need the bridge." in page.text
    others = Candidate(name="others", interventions=(ChangedPeople(step=5, profiles=[{"age": 80}], share=1.0),))
    plan = make_plan(others)
    parents, branches, effects = made_effects(plan, {"others": (0.1, -0.1, 0, 0)})
    for one in branches["others"]:
        one.actions = [replace(row, state="age: 80") if row.step >= 5 else row for row in one.actions]
    page = page_of(tmp_path, plan, parents, branches, effects, rank(plan, effects))
    assert "No person acts in both: all of them are others." in page.text and "Person 20 wrote" not in page.text


def test_the_record_holds_what_is_needed_to_make_it_again(tmp_path):
    page, _, _ = write(tmp_path, {"correction": SMALL, "voices": SMALL, "weather": SMALL}, seeds={"voices": 4})
    for text in ("mf-llm intervene runs/bridge --plan 'a plan.yaml'", "ab" * 32, "1234abcd", "tiny/backbone"):
        assert text in page.text
    assert "voices 0, 1, 2, 3 weather 0, 1, 2, 3, 4, 5, 6, 7" in page.text
    assert "topic: It takes eight months." in page.text


def test_failed_generations_are_counted_where_they_are_new(tmp_path):
    plan = make_plan(CORRECTION)
    parents, branches, effects = made_effects(plan, {"correction": (0.1, -0.1, 0, 0)})
    lost = {"source": "failed", "failure": "empty_text", "text": ""}
    parents[0].actions[-1] = replace(parents[0].actions[-1], **lost)
    # Step 4 is the common past; step 5 is new.
    for place in (4 * 4, 5 * 4):
        branch = branches["correction"][1]
        branch.actions[place] = replace(branch.actions[place], **lost)
    branches["correction"][1].steps[-1] = replace(branches["correction"][1].steps[-1], signal_failure="empty_text")
    page = page_of(tmp_path, plan, parents, branches, effects, None)
    assert "3 generations failed (1 without, 2 in branches)" in page.text


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"signal": "none"}, "added actions reach nobody"),
        ({"signal": "recent"}, "People see the last 5 actions"),
        ({"anchored": True}, "They are anchored"),
        ({"readout": "sampled"}, "counts of drawn answers"),
        ({"people": "resampled"}, "drawn from those of the warm-up"),
    ],
)
def test_what_a_simulation_cannot_show_is_told(tmp_path, config, says):
    changes = {"correction": SMALL, "voices": SMALL, "weather": SMALL}
    page, _, _ = write(tmp_path, changes, n_seeds=2, **config)
    assert says in page.text.partition("In any case")[2]
    assert "no person wrote, chose or thought it" in page.text and "None was measured on people." in page.text
    if config.get("signal") == "none":
        assert "there are no signals" in page.text


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of three methods on two data sets, as `mf-llm compare` leaves it; two have a language model."""

    class Constant:
        def __init__(self, name, share):
            self.name, self.share = name, share

        def __call__(self, event, plan, training):
            return [self.share, (1 - self.share) / 2, (1 - self.share) / 2]

    folder = tmp_path_factory.mktemp("compared")
    # The more `a`, the better for the tuned one.
    sets = {
        name: [make_event((("a" * (2 + i) + "bc") * 12)[:48], f"{name}{i}") for i in range(6)]
        for name in ("forum", "other")
    }
    methods = [Constant("uniform", 1 / 3), Constant("plain", 0.1), Constant("tuned", 0.5)]
    compare(sets, methods, n_bootstrap=200).save(folder)
    path = folder / "summary.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["sha256"]  # what follows is added by `mf-llm compare` before it is saved
    record["made"] = {
        "uniform": {"kind": "forecaster"},
        "plain": {
            "kind": "untuned",
            "options": {"signal": "none"},
            "made_with": [{"policy_base": "tiny/backbone", "weights": "ffff"}],
        },
        "tuned": {
            "kind": "tuned",
            "options": {"signal": "both"},
            "made_with": [{"policy_base": "tiny/backbone", "weights": "1234abcd"}],
        },
    }
    path.write_text(json.dumps(record), encoding="utf-8")
    return folder


CHANGES = {"correction": (0.06, -0.08, 0, 0.02), "voices": SMALL, "weather": SMALL}


def test_without_a_comparison_it_is_told_that_nothing_was_judged(tmp_path):
    page, _, _ = write(tmp_path, CHANGES)
    assert "This model was not judged on data of this kind here" in summary(page)
    assert "no comparison was given" in page.text and "mf-llm compare EVENTS --output DIR" in page.text


def test_a_comparison_tells_the_gain_of_the_nearest_method_on_this_data_set(tmp_path, compared):
    record = json.loads((compared / "summary.json").read_text(encoding="utf-8"))["data_sets"][0]
    assert record["data_set"] == "forum"
    page, _, _ = write(tmp_path, CHANGES, comparison=compared)
    gain, kl = record["methods"]["tuned"]["gain"], record["methods"]["tuned"]["kl"]
    told = f"{gain['value']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}] nats over {record['reference']}".replace(
        "-", "−"
    )
    said = summary(page)
    assert f"On forum/stance, the data set of this event, tuned gains {told} (6 test events)" in said
    assert "the same weights; simulated alike." in said
    assert f"Its KL there is {kl['value']:.3f} " in page.text and "other/stance" in page.text
    verdict = "nearer to" if gain["low"] > 0 else "farther from" if gain["high"] < 0 else "cannot be told from"
    assert verdict in said
    # Other weights come first, whatever the signal; then the backbone and what is simulated alike.
    gain = record["methods"]["plain"]["gain"]
    assert gain["high"] < 0
    page, _, _ = write(tmp_path, CHANGES, comparison=compared, weights="ffff", signal="both", action="choice")
    said = summary(page)
    assert f"plain gains {gain['value']:.3f}".replace("-", "−") in said and "deserve little trust" in said
    assert "the same weights; simulated otherwise in signal (none, here both) and action (auto, here choice)." in said
    page, _, _ = write(tmp_path, CHANGES, comparison=compared, weights="0000", signal="none")
    assert "plain gains" in page.text and "other weights (backbone: tiny/backbone); simulated alike." in page.text


def test_a_comparison_without_this_data_set_is_told(tmp_path, compared):
    page, _, _ = write(tmp_path, CHANGES, comparison=compared, data_set="tweets")
    assert "the event is of data set tweets, and the comparison holds forum/stance and other/stance" in summary(page)
    assert "tuned on all data sets of the comparison" in page.text
    page, _, _ = write(tmp_path, CHANGES, comparison=compared, data_set=None)
    assert "no data set that is named" in summary(page)


def test_a_comparison_of_forecasters_alone_judges_no_model(tmp_path, compared):
    record = json.loads((compared / "summary.json").read_text(encoding="utf-8"))
    folder = tmp_path / "forecasters"
    folder.mkdir()
    del record["made"]
    (folder / "summary.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "results.csv").write_bytes((compared / "results.csv").read_bytes())
    page, _, _ = write(tmp_path, CHANGES, comparison=folder)
    assert "the comparison has no method with a language model" in summary(page)
    with pytest.raises(InputError, match="must be the output folder of `mf-llm compare`"):
        write(tmp_path, CHANGES, comparison=tmp_path)


def test_an_event_that_was_judged_itself_is_told(tmp_path, compared):
    page, _, _ = write(tmp_path, CHANGES, comparison=compared, event_id="forum0")
    assert re.search(r"This very event is one of them: gain −?\d\.\d{3}, KL \d\.\d{3} nats", page.text)
    page, _, _ = write(tmp_path, CHANGES, comparison=compared)
    assert "This very event" not in page.text


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (TopicLine(step=5, topic="News."), "From step 5 on: the topic gets the line “News.”"),
        (TopicLine(step=5, until=5, topic="News."), "Step 5: the topic gets the line “News.”"),
        (ReplacedSignal(step=5, signal="All agree"), "Step 5: in the place of the population signal people see “All"),
        (AmendedSignal(step=5, until=N_STEPS, amend_signal="x"), "Steps 5 to 11: below the population signal"),
        (
            AddedActions(step=5, actions=[AddedAction(label="support")]),
            "Step 5: one more person acts, with the answer ",
        ),
        (ChangedPeople(step=5, profiles=["a nurse"], share=0.25), "From step 5 on: 25% of the people of a step are"),
        (
            ChangedPeople(step=5, profiles=[{"age": 8}, "a nurse"], add=2),
            "2 more people come to each step, drawn from ",
        ),
        (ChangedPeople(step=5, profiles=[{"age": 8}, "a nurse"], add=1), "drawn from “age: 8” and “a nurse”."),
    ],
)
def test_interventions_are_told_in_words(one, says):
    [sentence] = in_words(one)
    assert says in sentence
