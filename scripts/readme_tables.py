"""The tables of README, docs and model cards, out of the committed results."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

from mf_llm.benchmark.markdown import (
    annotators_table,
    bars_table,
    bounded,
    horizon_table,
    markdown,
    methods_table,
    pairs_by_data_set,
    pairs_table,
)

RESULTS = Path(__file__).resolve().parent.parent / "results"
TRIED = ("tried", "failed", "left_out")
# What README shows of results/two_cores; the others are what else was tried.
COMPARED = {
    *("uniform", "prior", "carry", "last", "carry-regressed", "trajectory", "probe"),
    *("state+calibrated", "recent+calibrated", "popular+calibrated", "sft", "sft-t20", "sft-as-anchored"),
    *("mf-tuned", "mf-statistics", "mf-no-signal", "anchored-zero", "sft+anchored", "mf-tuned+anchored"),
}
BESIDE_TRIED = ("carry", "carry-regressed", "sft-as-anchored", "mf-tuned", "mf-tuned+anchored")


def anchors_table(results: Path = RESULTS) -> str:
    """KL of the forecasters without a language model, per data set, with both yardsticks."""
    summary = json.loads((results / "anchors/summary.json").read_text(encoding="utf-8"))
    methods = summary["methods"]
    head = ["data set", "test events", "W/win", *methods, "reference", "best constant", "sampling alone"]
    rows = []
    for record in summary["data_sets"]:
        yardsticks = record["yardsticks"]
        rows.append(
            [
                record["data_set"],
                str(record["n_events"]),
                record["windows"],
                *(_number(record["methods"][name]["kl"]["value"]) for name in methods),
                record["reference"],
                _number(yardsticks["best_constant"]["value"]),
                _number(yardsticks["sampling_alone"]),
            ]
        )
    for record in summary["surveys"]:
        for event in record["events"]:
            if event["subgroup"] is None:
                kl = [_number(event["methods"][name]["kl"]["value"]) for name in methods]
                size = f"{event['n_people']} people"
                rows.append(
                    [event["event"], size, "w6", *kl, record["reference"], "-", _number(event["sampling_alone"])]
                )
    return markdown(head, rows)


def rollouts_table(results: Path = RESULTS) -> str:
    """The untuned default backbone beside the reference, per event."""
    head = ["event", "people", "windows", "KL [95 %]", "KL of the reference", "gain [95 %]", "entropy ratio"]
    rows = []
    for path in sorted((results / "untuned").glob("*/evaluation.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if not row["subgroup"]:
                    rows.append(
                        [
                            row["event"],
                            row["n_people"],
                            row["n_windows"],
                            _interval(row, "kl"),
                            f"{_number(float(row['reference_kl']))} ({row['reference']})",
                            _interval(row, "gain"),
                            f"{float(row['entropy_ratio']):.2f}" if row["entropy_ratio"] else "-",
                        ]
                    )
    return markdown(head, rows)


def ib_curve_table(results: Path = RESULTS) -> str:
    """Rate and relevance of the mean field's signals for each beta, and for those that were not trained."""
    names = {"none": "no signal", "prior": "topic alone (prior)", "untuned": "untuned"}
    head = ["signals", "rate", "relevance", "relevance over the prior's", "tokens"]
    with open(results / "ib_curve/ib_curve.csv", newline="", encoding="utf-8") as file:
        rows = [
            [
                names.get(row["point"], f"beta {float(row['beta'] or 0):g}"),
                *(_interval(row, name) for name in ("rate", "relevance", "over_prior")),
                f"{float(row['tokens']):.1f}",
            ]
            for row in csv.DictReader(file)
        ]
    return markdown(head, rows)


def policy_step_table(results: Path = RESULTS) -> str:
    """What a training step of the policy costs beside supervised fine-tuning."""
    summary = json.loads((results / "policy_step/policy_step.json").read_text(encoding="utf-8"))["summary"]
    head = ["method", "tokens/step", "people/s", "peak MiB", "x SFT"]
    head += ["tokens/s of the step, x SFT", "with drawing, x SFT"]
    ratios = ("peak_mib_ratio", "tokens_per_second_after_drawing_ratio", "tokens_per_second_ratio")
    rows = [
        [
            name,
            f"{one['tokens_per_step']['median']:.0f}",
            f"{one['people_per_second']['median']:.2f}",
            f"{one['peak_mib']['median']:.0f}",
            *(f"{one[key]['median']:.2f} [{one[key]['low']:.2f}, {one[key]['high']:.2f}]" for key in ratios),
        ]
        for name, one in summary.items()
    ]
    return markdown(head, rows)


def speed_table(results: Path = RESULTS) -> str:
    """People who act in a second at 256 people, for each method and length of the shared prompt part."""
    records = json.loads((results / "speed/speed.json").read_text(encoding="utf-8"))["records"]
    records = [one for one in records if one["people"] == 256]
    found = {(one["readout"], one["method"], one["prefix"]): one for one in records}
    prefixes = sorted({one["prefix"] for one in records})
    rows = []
    for readout, method in dict.fromkeys((one["readout"], one["method"]) for one in records):
        cells = []
        for prefix in prefixes:
            one, ours = found[readout, method, prefix], found[readout, "mf_llm", prefix]
            times = ours["people_per_second"] / one["people_per_second"]
            cells.append(f"{one['people_per_second']:.2f}" + (f" (x {times:.1f})" if one is not ours else ""))
        middle = found[readout, method, 600]
        peak = "-" if middle["peak_bytes"] is None else f"{middle['peak_bytes'] / 2**20:.0f}"
        shares = (f"{middle[name]:.0%}" for name in ("compute_share", "bandwidth_share"))
        rows.append([f"{readout}, {method}", *cells, peak, *shares])
    return markdown(["people/s", *(f"{p} tokens" for p in prefixes), "peak MiB", "compute", "bandwidth"], rows)


def scale_table(results: Path = RESULTS) -> str:
    """What large populations, many steps and the start cost beside what was asked for."""
    with (results / "scale/scale.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            [
                row["part"],
                row["measure"],
                f"{float(row['value']):.4g}",
                f"{float(row['at_most']):g}" if row["at_most"] else "-",
            ]
            for row in csv.DictReader(file)
        ]
    return markdown(["part", "measure", "found", "at most"], rows)


def comparison_table(name: str, results: Path = RESULTS) -> str:
    """Methods of a comparison, and what sets them apart."""
    return "\n".join([methods_table(results / name), pairs_table(results / name)])


def two_cores_table(results: Path = RESULTS) -> str:
    """The methods that are compared, what sets them apart, and what was asked of them."""
    folder = results / "two_cores"
    parts = [
        methods_table(folder, lambda name: name in COMPARED),
        pairs_table(folder, lambda a, b: {a, b} <= COMPARED),
        bars_table(folder, all_bars=False),
    ]
    return "\n".join(parts)


def data_sets_table(name: str, results: Path = RESULTS) -> str:
    """A comparison over many data sets: the methods, and in each data set what sets them apart."""
    return "\n".join([methods_table(results / name), pairs_by_data_set(results / name)])


def anchored_table(results: Path = RESULTS) -> str:
    """What the anchored model is with its best anchor, and what was asked of it."""
    return (
        comparison_table("two_cores_probe", results) + "\n" + bars_table(results / "two_cores_probe", all_bars=False)
    )


def tried_table(results: Path = RESULTS) -> str:
    """What else was tried, beside what it is held against."""
    folder = results / "two_cores"
    return "\n".join(
        [
            methods_table(folder, lambda name: name not in COMPARED or name in BESIDE_TRIED),
            pairs_table(folder, lambda a, b: not {a, b} <= COMPARED),
        ]
    )


def injection_table(results: Path = RESULTS) -> str:
    """How far hidden instructions, and harmless texts in their place, move the exact readout."""
    cells = json.loads((results / "injection/injection.json").read_text(encoding="utf-8"))["cells"]
    of = {(cell["group"], cell["fence"]): cell for cell in cells}
    rows = (
        ("hidden instruction", "all", "injection"),
        ("one in a plain sentence", "sentence", "injection"),
        ("one below a forged heading", "heading", "injection"),
        ("one in a forged chat turn", "turn", "injection"),
        ("the option mentioned, nothing asked", "all", "mention"),
        ("harmless text", "all", "placebo"),
    )
    head = ["text in the prompt", "texts"]
    head += [f"{what}, {fence}" for fence in ("fenced", "unfenced") for what in ("shift [95 %]", "largest", "first")]
    lines = []
    for name, group, content in rows:
        line = [name, str(of[group, "fenced"]["n_texts"])]
        for fence in ("fenced", "unfenced"):
            shift, chosen = (of[group, fence][content][measure] for measure in ("shift", "chosen"))
            low, high = _signed(shift["low"]), _signed(shift["high"])
            line += [f"{_signed(shift['value'])} [{low}, {high}]", _signed(shift["max"])]
            line += [f"{100 * chosen['value']:.0f} %"]
        lines.append(line)
    return markdown(head, lines)


def trust_table(results: Path = RESULTS) -> str:
    """What the trust battery tried, how often, and what failed; the sum of each area above its parts."""
    with (results / "trust.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    rows = []
    for area in dict.fromkeys(row["area"] for row in found):
        own = [row for row in found if row["area"] == area]
        sums = (sum(int(row[name]) for row in own) for name in TRIED)
        rows.append([f"**{area}**", *(f"**{n:,}**" for n in sums)])
        rows += [[row["what"], *(f"{int(row[name]):,}" for name in TRIED)] for row in own]
    return markdown(["what was tried", *(name.replace("_", " ") for name in TRIED)], rows)


def interventions_table(results: Path = RESULTS) -> str:
    """What candidates change in the packaged text event, in percentage points of simulated people."""
    with open(results / "interventions/ranking.csv", newline="", encoding="utf-8") as file:
        rows = [
            [
                row["name"] + (" (placebo)" if row["placebo"] == "True" else ""),
                f"{float(row['cost']):g}",
                row["n_seeds"],
                _points(row, "effect", "low", "high"),
                _points(row, "behind", "behind_low", "behind_high"),
            ]
            for row in csv.DictReader(file)
        ]
    return markdown(["candidate", "cost", "seeds", "effect, points [95 %]", "best is ahead by [95 %]"], rows)


def natural_experiments_table(results: Path = RESULTS) -> str:
    """Real shifts, and what was forecast of them from before they happened."""
    head = ["shift", "method", "news", "before", "after", "forecast [80 %]", "direction", "size", "in 80 %", "in 95 %"]
    with open(results / "natural_experiments/natural_experiments.csv", newline="", encoding="utf-8") as file:
        rows = [
            [
                f"{row['shift']} ({row['category']})",
                f"`{row['method']}`",
                row["news"] or "-",
                _percent(row["before"]),
                _percent(row["after"]),
                f"{_percent(row['forecast'])} [{_percent(row['low_80'])}, {_percent(row['high_80'])}]",
                row["direction"],
                f"{float(row['size']):.2f}" if row["size"] else "-",
                *("yes" if row[f"covered_{band}"] == "True" else "no" for band in (80, 95)),
            ]
            for row in csv.DictReader(file)
        ]
    return markdown(head, rows)


def forecast_table(results: Path = RESULTS) -> str:
    """Recalibrated forecasts beside carry-forward ensembles: CRPS, how sure they are, and the paired difference."""
    head = ["forecast of", "events", "CRPS", "carry", "carry, recalibrated", "CRPS - carry's [95 %]"]
    head += ["CRPS - recalibrated carry's [95 %]", "in 80 %", "in 95 %", "PIT uniform: p"]
    rows = []
    for path in sorted((results / "forecast").glob("*/forecast.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        title = json.loads((path.parent / "made_by.json").read_text(encoding="utf-8"))["title"]
        parts = [*summary["data_sets"].items(), *([("all", summary["overall"])] if summary["overall"] else [])]
        for name, record in parts:
            first, second = record["differences"]
            methods = record["methods"]
            found = methods[first["a"]]
            p_value = found["pit"]["p_value"]
            rows.append(
                [
                    f"{title}: {name}",
                    str(record["n_events"]),
                    *(
                        _number(methods[method]["crps"]["value"], 4) if "crps" in methods[method] else "-"
                        for method in (first["a"], first["b"], second["b"])
                    ),
                    *(bounded(pair["crps"], 4) for pair in (first, second)),
                    *(f"{found['covered'][level]['value']:.2f}" for level in ("0.8", "0.95")),
                    "-" if p_value is None else f"{p_value:.3f}",
                ]
            )
    return markdown(head, rows)


def ensemble_table(results: Path = RESULTS) -> str:
    """What an ensemble costs beside one rollout."""
    rows = []
    for path in sorted((results / "ensemble").glob("**/ensemble.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        config = found["config"]
        words = [str(config[name]) for name in ("signal", "readout", "action") if name in config]
        shown = ", ".join(words + ["one warm-up"] * ("warm_up_seed" in config))
        single = f"{min(found['single_seconds']):.1f} to {max(found['single_seconds']):.1f}"
        seconds = [single, f"{found['ensemble_seconds']:.1f}", f"{found['ratio']:.1f}", f"{found['tokens_ratio']:.1f}"]
        rows.append([found["event"], shown, str(len(found["seeds"])), *seconds])
    head = ["event", "settings", "rollouts", "one alone, s", "all together, s", "times one", "tokens, times one"]
    return markdown(head, rows)


def endpoint_table(results: Path = RESULTS) -> str:
    """How busy the endpoint engine keeps a server."""
    with open(results / "endpoint/endpoint.csv", newline="", encoding="utf-8") as file:
        rows = [
            [
                row["asked by"],
                row["requests"],
                f"{float(row['requests/s']):.1f}",
                f"{float(row['of the server alone']):.2f} [{float(row['lowest']):.2f}, {float(row['highest']):.2f}]",
                f"{float(row['in flight']):.1f}",
            ]
            for row in csv.DictReader(file)
        ]
    return markdown(["asked by", "requests", "requests/s", "of the server alone [range]", "in flight"], rows)


TABLES = {
    "injection": injection_table,
    "ib_curve": ib_curve_table,
    "policy_step": policy_step_table,
    "anchors": anchors_table,
    "untuned": rollouts_table,
    "packaged": partial(comparison_table, "packaged"),
    "two_cores": two_cores_table,
    "nine_data_sets": partial(data_sets_table, "nine_data_sets"),
    "gemma": partial(data_sets_table, "gemma"),
    "two_cores_probe": anchored_table,
    "robustness": partial(comparison_table, "robustness"),
    "story_disjoint": partial(comparison_table, "story_disjoint"),
    "long_horizon": partial(horizon_table, RESULTS / "long_horizon"),
    "long_horizon_replay": partial(horizon_table, RESULTS / "long_horizon_replay"),
    "annotators": partial(annotators_table, RESULTS / "annotators"),
    "two_cores_tried": tried_table,
    "nine_data_sets_longer": partial(data_sets_table, "nine_data_sets_longer"),
    "two_cores_validation": partial(comparison_table, "two_cores_validation"),
    "two_cores_validation_written": partial(comparison_table, "two_cores_validation_written"),
    "trust": trust_table,
    "speed": speed_table,
    "scale": scale_table,
    "interventions": interventions_table,
    "natural_experiments": natural_experiments_table,
    "forecast": forecast_table,
    "ensemble": ensemble_table,
    "endpoint": endpoint_table,
}


def _interval(row: dict[str, str], name: str) -> str:
    text = _number(float(row[name]))
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{text} [{_number(float(low))}, {_number(float(high))}]" if low and high else text


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"


def _points(row: dict[str, str], name: str, low: str, high: str) -> str:
    """A share in percentage points."""
    if not row[name]:
        return "-"
    text = f"{100 * float(row[name]):+.1f}"
    return f"{text} [{100 * float(row[low]):+.1f}, {100 * float(row[high]):+.1f}]" if row[low] and row[high] else text


def _percent(share: str) -> str:
    return f"{100 * float(share):.0f} %"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}"
