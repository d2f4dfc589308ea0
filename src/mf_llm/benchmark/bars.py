"""The bars of the benchmark: what must hold, what was found, by how much a bar is missed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mf_llm.evaluation.intervals import Interval
from mf_llm.evaluation.method_table import ALL, EVENTS, MethodTable, lowest
from mf_llm.evaluation.scoring import Replicated

RATIO = 0.53  # "at least 47 % below"
SKILL = 0.05
LOSS = 0.02  # nats
VARIETY = (0.8, 1.2)  # entropy of the simulated shares over that of the real ones
BASELINES = ("state", "recent", "popular")
BLIND = ("mf-no-signal",)  # tuned as the tuned model is, shown nothing of the others
ANCHORS = ("anchored-zero", "sft+anchored", "carry-regressed")
TUNED = ("mf-tuned", "mf-statistics")  # whom the bars are about: the first that was compared
SEEDS = 3  # training seeds that the protocol asks for


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One condition.

    Attributes:
        name: what is compared, and where.
        wanted: the condition in words.
        value: what was found, with its interval; None where runs are missing.
        holds: None where runs are missing.
        missed_by: distance to the condition, in the unit of `value`; None where it holds or is open.
        stated: the condition decides the experiment; otherwise it is stricter than asked and only told.
        note: what is missing, or what a reader must know.
    """

    name: str
    wanted: str
    value: Interval | None = None
    holds: bool | None = None
    missed_by: float | None = None
    stated: bool = True
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def find_bars(table: MethodTable, overall: Mapping[str, Any] | None = None) -> dict[str, list[dict[str, Any]]]:
    """The bars whose tuned method was compared, as JSON objects; all open with fewer than `SEEDS` training seeds.

    Where `mf-tuned` was not compared, they are about `mf-statistics`, whose mean field is the shares alone.

    Args:
        table: the methods.
        overall: of a comparison's summary: method -> its pooled skill ``S``.
    """
    kinds: dict[str, tuple[str, Callable[[str], list[Bar]]]] = {
        "plain": ("", lambda tuned: plain_bars(table, tuned)),
        "anchored": (
            "+anchored",
            lambda tuned: [*anchored_bars(table, tuned), *reference_bars(table, overall or {}, tuned)],
        ),
    }
    found = {}
    for kind, (end, bars) in kinds.items():
        tuned = next((name + end for name in TUNED if name + end in table.methods), None)
        if tuned is not None:
            found[kind] = [_decided(bar, table.n_seeds(tuned)).to_dict() for bar in bars(tuned)]
    return found


def _decided(bar: Bar, n_seeds: int) -> Bar:
    if bar.holds is None or n_seeds >= SEEDS:
        return bar
    return replace(bar, holds=None, missed_by=None, note=f"needs {SEEDS} training seeds, got {n_seeds}; {bar.note}")


def plain_bars(table: MethodTable, tuned: str = "mf-tuned", sft: str = "sft") -> list[Bar]:
    """The tuned model against the untuned baselines and fine-tuning, over all data sets."""
    calibrated = [f"{name}+calibrated" for name in BASELINES]
    bars = [*_against_best(table, tuned, calibrated, "best untuned baseline (calibrated)", stated=True)]
    bars.append(_below_zero(table, tuned, sft))
    without = "best language model without a mean field"
    # An ablation of the tuned model that sees nothing of the others has no mean field either.
    blind = [name for name in BLIND if name in table.methods]
    # Its second bar, the difference to the best, would be the one above again or easier.
    bars += _against_best(table, tuned, [*calibrated, sft, *blind], without, stated=True)[:1]
    either = "best untuned baseline (calibrated or not)"
    bars += _against_best(table, tuned, [*BASELINES, *calibrated], either, stated=False)
    return bars


def anchored_bars(table: MethodTable, tuned: str = "mf-tuned+anchored") -> list[Bar]:
    """The anchored tuned model over each anchor: all data sets, those without surveys, and each survey by itself."""
    surveys = [name for name in table.data_sets if table.training[name].windows.waves]
    scopes = list(dict.fromkeys([ALL, *([EVENTS] if surveys else []), *surveys]))
    bars = []
    for other in ANCHORS:
        for scope in scopes:
            note = ""
            if other == "carry-regressed" and scope in surveys:
                note = "for surveys carry-regressed is carry by construction"
            gain = table.gain(tuned, other, scope) if _both(table, tuned, other, scope) else None
            name = f"G({tuned} over {other}), {_words(table, scope)}"
            bars.append(
                _bar(name, "lower 95 % bound above 0", gain, lambda found: -(found.low or 0.0), strict=True, note=note)
                if gain is not None
                else _open(table, name, "lower 95 % bound above 0", (tuned, other), scope)
            )
    return bars


def reference_bars(table: MethodTable, overall: Mapping[str, Any], tuned: str = "mf-tuned+anchored") -> list[Bar]:
    """The anchored tuned model over each data set's reference forecaster, and how varied its crowds are."""
    rows = {row["dataset"]: row for row in table.kl_rows([tuned]) if row["training_seed"] == "mean"}
    here = [rows[name] for name in table.data_sets if name in rows]
    missing = table.missing(tuned, ALL)
    skill = overall.get(tuned, {}).get("S")
    least = min((row for row in here if row["gain"] is not None), key=lambda row: row["gain"], default=None)
    ratios = [row["entropy_ratio"] for row in here]
    pooled = f"S({tuned}), pooled over {len(table.data_sets_of(EVENTS))} data sets"
    loss = f"what {tuned} loses to the reference where it loses most"
    varied = f"entropy ratio of {tuned}, {_words(table, ALL)}"
    if missing or least is None:
        wanted = (f"at least {SKILL}", f"at most {LOSS} nats", _from_to(VARIETY))
        return [
            _open(table, name, text, (tuned,), ALL) for name, text in zip((pooled, loss, varied), wanted, strict=True)
        ]
    bars = []
    if skill is not None:
        found = Interval(skill["value"], skill["low"], skill["high"])
        bars.append(_judged(pooled, f"at least {SKILL}", found, SKILL - found.value))
    bounds = [None if least[name] is None else -least[name] for name in ("gain_high", "gain_low")]
    found = Interval(-least["gain"], *bounds)
    bars.append(_judged(loss, f"at most {LOSS} nats", found, found.value - LOSS, note=f"in {least['dataset']}"))
    if None not in ratios:
        mean = sum(ratios) / len(ratios)
        bars.append(_judged(varied, _from_to(VARIETY), Interval(mean, None, None), _outside(mean, *VARIETY)))
    return bars


def _from_to(bounds: tuple[float, float]) -> str:
    return f"from {bounds[0]} to {bounds[1]}"


def _outside(value: float, low: float, high: float) -> float:
    return max(low - value, value - high)


def _against_best(table: MethodTable, tuned: str, candidates: list[str], what: str, *, stated: bool) -> list[Bar]:
    name = f"{tuned} / {what}, {_words(table, ALL)}"
    wanted = f"at most {RATIO}"
    best = lowest(table, candidates, ALL)
    kl, best_kl = table.kl(tuned, ALL), None if best is None else table.kl(best, ALL)
    if best is None or kl is None or best_kl is None:
        return [_open(table, name, wanted, (tuned, *candidates), ALL, stated=stated)]
    # A difference first: it refuses methods that were judged on other events.
    difference = table.difference(tuned, best, ALL)
    assert difference is not None  # both have a KL
    note = f"the best is {best}" + _weakness(table, best_kl.value)
    ratio = kl / best_kl
    bars = [_bar(name, wanted, ratio, lambda found: found.value - RATIO, stated=stated, note=note)]
    name = f"{tuned} - {best}, {_words(table, ALL)}"
    wanted = "95 % interval below 0"
    bars.append(_bar(name, wanted, difference, lambda found: found.high or 0.0, strict=True, stated=stated))
    return bars


def _weakness(table: MethodTable, kl: float) -> str:
    """Says so where the best baseline is worse than equal shares: to be far below it is then no achievement."""
    uniform = table.kl("uniform", ALL)
    if uniform is None or kl <= uniform.value:
        return ""
    return f", KL {kl:.3f}, which is worse than uniform shares ({uniform.value:.3f}): this bar asks for little"


def _below_zero(table: MethodTable, a: str, b: str) -> Bar:
    name, wanted = f"{a} - {b}, {_words(table, ALL)}", "95 % interval below 0"
    difference = table.difference(a, b, ALL) if _both(table, a, b, ALL) else None
    if difference is None:
        return _open(table, name, wanted, (a, b), ALL)
    return _bar(name, wanted, difference, lambda found: found.high or 0.0, strict=True)


def _bar(
    name: str,
    wanted: str,
    score: Replicated,
    distance: Callable[[Interval], float],
    *,
    strict: bool = False,
    stated: bool = True,
    note: str = "",
) -> Bar:
    """A bar whose `distance` is positive where it is missed (strict: also where it is 0, or has no interval)."""
    found = score.interval()
    return _judged(name, wanted, found, distance(found), strict=strict, stated=stated, note=note)


def _judged(
    name: str, wanted: str, found: Interval, by: float, *, strict: bool = False, stated: bool = True, note: str = ""
) -> Bar:
    holds = by < 0 if strict else by <= 0
    missed_by = None if holds else max(by, 0.0)
    return Bar(name=name, wanted=wanted, value=found, holds=holds, missed_by=missed_by, stated=stated, note=note)


def _open(
    table: MethodTable, name: str, wanted: str, methods: tuple[str, ...], scope: str, *, stated: bool = True
) -> Bar:
    missing = [f"{method}: {text}" for method in methods if (text := table.missing(method, scope))]
    return Bar(name=name, wanted=wanted, stated=stated, note="missing: " + "; ".join(missing))


def _both(table: MethodTable, a: str, b: str, scope: str) -> bool:
    return not table.missing(a, scope) and not table.missing(b, scope)


def _words(table: MethodTable, scope: str) -> str:
    names = {ALL: "mean of {} data sets", EVENTS: "mean of {} data sets, surveys apart"}
    return names.get(scope, scope).format(len(table.data_sets_of(scope)))
