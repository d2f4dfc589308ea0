"""Figures of interventions show the numbers of the effects, and leave out nothing without saying so."""

from dataclasses import replace

import numpy as np
import pytest

from made_effects import CATEGORIES, N_STEPS, N_WARM_UP, made_effects, make_plan
from mf_llm.evaluation.plotting import COLOURS, GREY
from mf_llm.interventions import AmendedSignal, Candidate, Effects, TopicLine
from mf_llm.interventions.effect_plots import effect_figures, plot_effects
from mf_llm.interventions.effects import paired_interval
from mf_llm.interventions.ranking import rank

pytest.importorskip("matplotlib")

STEPS = list(range(N_WARM_UP, N_STEPS))
PLAN = make_plan(
    Candidate(name="correction", interventions=(TopicLine(step=5, topic="It takes eight months."),)),
    Candidate(
        name="summary",
        interventions=(AmendedSignal(step=4, amend_signal="It is cracked."), TopicLine(step=8, topic="Again.")),
    ),
    Candidate(name="weather", placebo=True, interventions=(TopicLine(step=5, topic="It is cloudy."),)),
)
CHANGES = {
    "correction": (0.05, -0.08, 0.01, 0.02),
    "summary": (0.02, -0.02, 0.0, 0.0),
    "weather": (0.001, -0.001, 0.0, 0.0),
}
EFFECTS = made_effects(PLAN, CHANGES, seeds={"summary": 4})[2]
RANKING = rank(PLAN, EFFECTS)


def figures(effects=EFFECTS, plan=PLAN, ranking=RANKING):
    return {one.name: one for one in effect_figures(effects, plan, ranking)}


def painted(one):
    """The figure, drawn as it is saved, so that layout and fonts are tried, too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.5, one.height), layout="constrained")
    one.paint(figure)
    FigureCanvasAgg(figure).draw()
    return figure


def curves(axes):
    """The lines that are no triangles and no zero lines: colour -> x, y."""
    found = {}
    for line in axes.get_lines():
        if line.get_marker() not in ("^", "None") or len(line.get_xdata()) > 2:
            found[line.get_color()] = (np.asarray(line.get_xdata()), np.asarray(line.get_ydata(), dtype=float))
    return found


def triangles(axes, colour):
    steps = [
        float(line.get_xdata()[0])
        for line in axes.get_lines()
        if line.get_marker() == "^" and len(line.get_xdata()) == 1 and line.get_color() == colour
    ]
    return [round(step) for step in steps]


def test_files_are_written_for_paper_and_screen(tmp_path):
    found = plot_effects(EFFECTS, PLAN, tmp_path / "plots" / "effects", ranking=RANKING)
    names = [f"effects-{name}{ending}" for name in ("trajectories", "steps", "ranking") for ending in (".png", ".pdf")]
    assert [path.name for path in found] == names
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(names)
    from PIL import Image

    with Image.open(found[0]) as picture:
        assert picture.width == 3.5 * 300
    assert found[1].read_bytes().startswith(b"%PDF")
    again = plot_effects(EFFECTS, PLAN, tmp_path / "again" / "effects", ranking=RANKING)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in found]
    assert len(plot_effects(EFFECTS, replace(PLAN, target=None), tmp_path / "plain")) == 4


def test_trajectories_leave_the_parents_by_the_effect():
    one = figures()["trajectories"]
    assert "oppose" in one.title and "8 seeds" in one.title
    [axes] = painted(one).axes
    found, k = curves(axes), CATEGORIES.index("oppose")
    x, without = found["black"]
    assert x.tolist() == STEPS
    assert without == pytest.approx(EFFECTS.without["correction"][:, :, k].mean(axis=0))
    for name, colour, first in (("correction", COLOURS[0], 5), ("summary", COLOURS[1], 4), ("weather", GREY, 5)):
        x, shares = found[colour]
        assert x.tolist() == [first - 1, *range(first, N_STEPS)]
        effect = EFFECTS.differences(name)[:, :, k].mean(axis=0)
        # Also where a candidate has half of the seeds, whose parents have another mean.
        assert shares - without[first - 1 - N_WARM_UP :] == pytest.approx(effect[first - 1 - N_WARM_UP :])
        assert shares[0] == pytest.approx(without[first - 1 - N_WARM_UP])
    assert triangles(axes, COLOURS[0]) == [5] and triangles(axes, COLOURS[1]) == [4, 8]
    [placebo] = [line for line in axes.get_lines() if line.get_color() == GREY and len(line.get_xdata()) > 2]
    assert placebo.get_linestyle() == "--"
    # Bands: without, and the best.
    low, high = axes.get_ylim()
    assert len(axes.collections) == 2 and low < shares.min() and high > without.max()
    assert "(without and correction)" in one.note
    end = EFFECTS.changed["correction"][:, -1, k].mean()
    assert f"correction oppose {end:.1%}" in one.spoken


def test_effects_per_step_have_their_paired_intervals():
    one = figures()["steps"]
    panels = [axes for axes in painted(one).axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == ["correction", "summary", "weather (placebo)"]
    assert len({axes.get_ylim() for axes in panels}) == 1
    k = CATEGORIES.index("oppose")
    for axes, name, first in zip(panels, ("correction", "summary", "weather"), (5, 4, 5), strict=True):
        [bars] = axes.containers
        line, _, [whiskers] = bars
        expected = [
            paired_interval(100 * EFFECTS.differences(name)[:, t, k]) for t in range(first - N_WARM_UP, len(STEPS))
        ]
        assert line.get_xdata().tolist() == list(range(first, N_STEPS))
        assert line.get_ydata() == pytest.approx([one.value for one in expected])
        ends = np.array([segment[:, 1] for segment in whiskers.get_segments()])
        assert ends[:, 0] == pytest.approx([one.low for one in expected])
        assert ends[:, 1] == pytest.approx([one.high for one in expected])
        # The target's steps are shaded.
        [shade] = axes.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (5.5, 10.5)
    texts = [text.get_text() for axes in panels for text in axes.texts]
    assert texts == ["8 seeds", "4 seeds", "8 seeds"]


def test_the_ranking_is_drawn_best_first_with_its_own_intervals():
    [axes] = painted(figures()["ranking"]).axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["correction\n8 seeds", "summary\n4 seeds", "weather (placebo)\n8 seeds"]
    assert axes.yaxis_inverted()
    lines = axes.get_lines()[1:]  # behind the line at zero
    whiskers, dots = lines[::2], lines[1::2]
    for one, whisker, dot in zip(RANKING.ranked, whiskers, dots, strict=True):
        assert list(whisker.get_xdata()) == pytest.approx([100 * one.effect.low, 100 * one.effect.high])
        assert dot.get_xdata()[0] == pytest.approx(100 * one.effect.value)
        filled = dot.get_markerfacecolor() != "white"
        assert filled == (not one.effect.low <= 0 <= one.effect.high)
    assert dots[2].get_color() == GREY
    assert "Left of zero is the goal" in figures()["ranking"].note
    assert "correction −8.0 points [" in figures()["ranking"].spoken


def test_many_candidates_are_cut_and_the_cut_is_told():
    candidates = [
        Candidate(
            name=f"candidate {i} with a very long name of many words $x$",
            interventions=PLAN.candidates[0].interventions,
        )
        for i in range(9)
    ]
    plan = make_plan(*candidates, PLAN.candidates[2])
    changes = {one.name: (0.01 * i, -0.01 * i, 0.0, 0.0) for i, one in enumerate(candidates)}
    effects = made_effects(plan, changes | {"weather": CHANGES["weather"]}, n_seeds=4)[2]
    ranking = rank(plan, effects)
    found = figures(effects, plan, ranking)
    assert "Left out: 4 more candidates" in found["trajectories"].note
    assert "Left out: 4 more candidates" in found["steps"].note
    panels = [axes.get_title(loc="left") for axes in painted(found["steps"]).axes if axes.axison]
    # The five best, and the placebo in any case.
    assert [title.split("\n")[0][:11] for title in panels] == [f"candidate {i}" for i in (8, 7, 6, 5, 4)] + [
        "weather (pl"
    ]
    assert len(painted(found["ranking"]).axes[0].get_yticklabels()) == 10


def test_without_a_target_every_category_has_a_strip():
    plan = replace(PLAN, target=None)
    found = figures(plan=plan, ranking=None)
    assert list(found) == ["trajectories", "steps"]
    strips = painted(found["trajectories"]).axes
    assert [axes.get_title(loc="right") for axes in strips] == list(CATEGORIES)
    for k, axes in enumerate(strips):
        assert curves(axes)["black"][1] == pytest.approx(EFFECTS.without["weather"][:, :, k].mean(axis=0))
    panels = [axes for axes in painted(found["steps"]).axes if axes.axison]
    assert [len(axes.containers) for axes in panels] == [4, 4, 4]
    assert "target" not in found["steps"].note


def test_one_seed_has_no_intervals_and_unread_steps_are_gaps():
    effects = made_effects(PLAN, CHANGES, n_seeds=1)[2]
    found = figures(effects, PLAN, rank(PLAN, effects))
    [axes] = painted(found["ranking"]).axes
    assert axes.get_yticklabels()[0].get_text() == "correction\n1 seed"
    # Dots alone, none of them filled.
    assert {line.get_markerfacecolor() for line in axes.get_lines()[1:]} == {"white"}
    painted(found["steps"])
    holed = {name: values.copy() for name, values in EFFECTS.changed.items()}
    holed["correction"][2, -1] = np.nan
    effects = Effects(**(vars(EFFECTS) | {"changed": holed}))
    found = figures(effects, PLAN, None)
    assert "correction: oppose unread" in found["steps"].spoken
    assert "correction oppose unread" in found["trajectories"].spoken
    [axes] = painted(found["trajectories"]).axes
    assert np.isnan(curves(axes)[COLOURS[0]][1]).tolist() == [False] * 6 + [True]


def test_names_that_the_font_lacks_are_numbered(tmp_path):
    plan = make_plan(
        replace(PLAN.candidates[0], name="官方更正"), *PLAN.candidates[1:], category="oppose", steps=(6, 10)
    )
    effects = made_effects(plan, CHANGES | {"官方更正": CHANGES["correction"]})[2]
    ranking = rank(plan, effects)
    [axes] = painted(figures(effects, plan, ranking)["ranking"]).axes
    assert axes.get_yticklabels()[0].get_text() == "candidate 1\n8 seeds"
    assert len(plot_effects(effects, plan, tmp_path / "x", ranking=ranking)) == 6
