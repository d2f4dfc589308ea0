"""What the figures show."""

import numpy as np
import pytest
from made_events import make_event, make_rollout, make_survey

from mf_llm.errors import InputError
from mf_llm.evaluation import plot_trajectory
from mf_llm.evaluation.plotting import COLOURS
from mf_llm.evaluation.protocol import Windows

pytest.importorskip("matplotlib")

WINDOWS = Windows(8, 4)
EVENT = make_event("aabbccab" + "aaab" + "bbbb" + "ccab")


def tilted(turn, label):
    return (0.5, 0.3, 0.2)


def test_strips_show_real_and_simulated_shares_and_kl(tmp_path):
    figure = plot_trajectory(
        [make_rollout(EVENT, tilted, WINDOWS)], EVENT, tmp_path / "sub" / "event.png", windows=WINDOWS
    )
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["event.pdf", "event.png"]
    *strips, kl = figure.axes
    assert len(strips) == 3
    real, simulated = strips[0].get_lines()
    assert real.get_ydata() == pytest.approx([0.5, 0.25, 0.75, 0, 0.25])
    assert real.get_xdata() == pytest.approx([2, 6, 10, 14, 18])
    assert simulated.get_ydata() == pytest.approx([0.5] * 3)
    assert simulated.get_xdata() == pytest.approx([10, 14, 18])
    assert (real.get_linestyle(), simulated.get_linestyle()) == ("-", "--")
    assert [axes.get_lines()[0].get_color() for axes in strips] == list(COLOURS[:3])
    assert all(axes.get_lines()[0].get_color() == axes.get_lines()[1].get_color() for axes in strips)
    assert [axes.texts[0].get_text() for axes in strips] == ["a", "b", "c"]
    # The warm-up of 8 people is shaded.
    assert all(axes.patches[0].get_x() == 0 and axes.patches[0].get_width() == 8 for axes in figure.axes)
    reference, own = kl.get_lines()
    q = np.array([0.5, 0.3, 0.2])
    expected = [0.75 * np.log(0.75 / q[0]) + 0.25 * np.log(0.25 / q[1]), -np.log(q[1])]
    assert own.get_ydata()[:2] == pytest.approx(expected)
    assert len(reference.get_ydata()) == 3
    labels = [text.get_text() for text in kl.get_legend().get_texts()]
    assert labels[0] == f"simulated, mean {np.mean(own.get_ydata()):.3f}"
    assert labels[1].startswith("carry(alpha=10), mean")


def test_windows_that_were_not_simulated_are_left_out():
    rollout = make_rollout(EVENT, tilted, WINDOWS)
    rollout.actions = rollout.actions[:17]
    figure = plot_trajectory([rollout], EVENT, windows=WINDOWS)
    assert figure.axes[0].get_lines()[1].get_xdata() == pytest.approx([10, 14])
    rollout.actions = rollout.actions[:9]
    with pytest.raises(InputError, match="must simulate a whole window"):
        plot_trajectory([rollout], EVENT, windows=WINDOWS)


def test_surveys_are_bars_of_the_judged_wave():
    event = make_survey({"w1": [("a", 1, {}), ("b", 1, {})], "w2": [("a", 3, {}), ("c", 1, {})]})
    rollout = make_rollout(event, tilted, Windows(0, 0, waves=True))
    figure = plot_trajectory([rollout], event)
    (axes,) = figure.axes
    before, _, simulated, real = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert before == pytest.approx([0.5, 0.5, 0])
    assert simulated == pytest.approx([0.5, 0.3, 0.2])
    assert real == pytest.approx([0.75, 0, 0.25])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == "real, wave w2"


def test_titles_are_short_and_drawable():
    rollout = make_rollout(EVENT, tilted, WINDOWS)
    figure = plot_trajectory([rollout], EVENT, windows=WINDOWS, title="costs $5 " * 40)
    assert figure.get_suptitle().count("\n") == 1
    assert r"\$5" in figure.get_suptitle()
    assert plot_trajectory([rollout], EVENT, windows=WINDOWS, title="每次晚上").get_suptitle() == "e"


def test_nothing_is_registered_with_pyplot():
    import sys

    plot_trajectory([make_rollout(EVENT, tilted, WINDOWS)], EVENT, windows=WINDOWS)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_rollouts_of_another_event_are_refused():
    rollout = make_rollout(EVENT, tilted, WINDOWS)
    with pytest.raises(InputError, match="must hold simulated turns of event 'other'"):
        plot_trajectory([rollout], make_event("ab" * 10, "other"))
    with pytest.raises(InputError, match="got another content"):
        plot_trajectory([rollout], make_event("ab" * 10))
