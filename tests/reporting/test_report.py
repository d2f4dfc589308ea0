"""The report of a comparison with tiny models and with forecasters alone: what is in it, and what can never be."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_benchmark import save_tuned, write_poll
from made_events import make_event, make_survey

from mf_llm.benchmark.job import folder_name
from mf_llm.commands.compare_methods import CompareRequest, run_compare
from mf_llm.commands.write_report import run_report
from mf_llm.errors import InputError
from mf_llm.evaluation.comparison import compare
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.reporting.blocks import with_bounds
from mf_llm.reporting.page import write_report

pytest.importorskip("peft")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
]

STANCES = ["support", "<b>deny</b>", "query"]
SCRIPT = "<script>alert('x')</script>"
ACTION, STATE = f"said {SCRIPT} $x$", 'works" onload="alert(1)'
METHODS = """
options: {readout: exact, action: choice, agents_per_step: 8, signal_max_tokens: 4}
data_sets:
  poll: {max_people_per_step: 6}
methods:
  uniform: {forecaster: uniform}
  carry: {forecaster: carry}
  base: {options: {signal: none}}
  mine: {checkpoint: "{checkpoints}/tuned{seed}", seeds: [0, 1], options: {signal: statistics}}
  mf-tuned+anchored: {checkpoint: "{checkpoints}/tuned{seed}", seeds: [0, 1], options: {anchored: true}}
pairs:
  - [mine, base]
  - [mine, uniform]
"""


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html.replace("<wbr>", ""))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def read(path: Path) -> Page:
    """The page, whose tags must be closed in their order."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def write_data(folder: Path) -> None:
    """Threads of 16 turns in two domains, one of them with too few events for a claim, and a survey."""
    folder.mkdir()
    lines = []
    for number in range(8):
        labels = [STANCES[(i * (number + 1) + i // 5) % 3] for i in range(16)]
        turns = [{"action": ACTION, "state": {"job": STATE}, "labels": {"stance": label}} for label in labels]
        event = {"event_id": f"e{number} {SCRIPT}", "topic": f"Bridge {SCRIPT}", "turns": turns}
        split, domain = ("train" if number < 1 else "test"), ("health" if number < 6 else "sports")
        lines.append(event | {"split": split, "domain": domain, "dimensions": {"stance": STANCES}})
    (folder / "threads.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_poll(folder, STANCES)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Data, rollouts and results of a comparison with tiny models; a second checkpoint is missing for one method."""
    folder = tmp_path_factory.mktemp("report")
    write_data(folder / "data")
    base = save_tiny_backbone(folder / "base", "qwen2")
    for seed in (0, 1):
        save_tuned(base, folder / f"tuned{seed}", seed)
    (folder / "methods.yaml").write_text(METHODS, encoding="utf-8")
    run_compare(
        CompareRequest(
            events=str(folder / "data"),
            methods=("all",),
            output=folder / "results",
            method_list=folder / "methods.yaml",
            checkpoints=str(folder),
            model=str(base),
            dtype="float32",
            n_bootstrap=50,
        )
    )
    return folder


@pytest.fixture(scope="module")
def page(place) -> Page:
    """The whole report."""
    return read(run_report(place / "results", events=str(place / "data"), output=place / "page.html"))


def test_what_people_wrote_is_never_markup(place, page):
    html = (place / "page.html").read_text(encoding="utf-8")
    assert "<script" not in html and "<b>deny" not in html
    assert "&lt;script&gt;alert" in html and "&lt;b&gt;deny&lt;/b&gt;" in html
    # It is all there, as text.
    assert "Bridge <script>alert('x')</script>" in page.text and ACTION in page.text and STATE in page.text
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]


def test_nothing_is_loaded_from_elsewhere(place, page):
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    html = (place / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", re.sub(r'src="data:[^"]*"', "", html))
    for image in page.all("img"):
        svg = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert not re.search(r'href="(?!#)', svg) and "<script" not in svg


def test_it_can_be_read_by_everybody(page):
    assert all(image["alt"] for image in page.all("img"))
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") > 5
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    names = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(names) == len(set(names)) and {link["href"][1:] for link in page.all("a")} <= set(names)


def test_the_numbers_are_those_of_the_files(place, page):
    summary = json.loads((place / "results/summary.json").read_text(encoding="utf-8"))
    for record in [*summary["data_sets"], *summary["surveys"]]:
        for method in summary["methods"]:
            score = record["methods"][method]["kl"]
            assert with_bounds(score) in page.text.replace(" (best)", "")
    with (place / "results/methods.csv").open(encoding="utf-8", newline="") as file:
        means = {row["method"]: float(row["kl"]) for row in csv.DictReader(file) if row["dataset"] == "mean"}
    lowest = min(means.values())
    # carry and methods that are carry to the last digit share the place.
    assert "The lowest mean KL over the 2 data sets is that of" in page.text
    assert f": {lowest:.3f} [" in page.text
    with (place / "results/pairs.csv").open(encoding="utf-8", newline="") as file:
        pair = next(row for row in csv.DictReader(file) if (row["a"], row["dataset"]) == ("mine", "threads/stance"))
    assert f"{float(pair['difference']):.4f}".replace("-", "−") in page.text
    bars = [bar for kind in summary["bars"].values() for bar in kind]
    assert bars and all(bar["name"] in page.text for bar in bars)
    assert f"{sum(bar['holds'] is None for bar in bars)} of {len(bars)} bars open" in page.text
    assert summary["command"] in page.text and summary["data_hash"] in page.text and "protocol version 1" in page.text
    checkpoint = summary["made"]["mine"]["checkpoints"]["1"]["adapter_model.safetensors"]
    assert checkpoint in page.text and "mine (seed 1), mf-tuned+anchored (seed 1)" in page.text


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
def test_real_and_simulated_stand_side_by_side(place, page):
    assert "Simulated text and simulated shares are simulated" in page.text
    captions = [text for text in page.words if "beside what the same people really did" in text]
    assert len(captions) == 2
    assert "simulated likeliest: " in page.text and f"real query {ACTION}" in page.text
    alts = [image["alt"] for image in page.all("img") if image["alt"].startswith("Real shares")]
    assert len(alts) == 3  # two threads and the survey
    assert all(
        re.search(r"beside .*\(seed 0\), KL .*; base, KL .*; (prior|carry\(alpha=10\)), KL ", alt) for alt in alts
    )
    # The KL of a drawn event is that of the table.
    with (place / "results/results.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "base"]
    for alt in alts:
        [row] = [row for row in rows if f"in event {row['event']} of" in alt]
        assert f"base, KL {float(row['kl']):.3f}" in alt


def test_domains_with_few_events_carry_no_claim(page):
    [alt] = [image["alt"] for image in page.all("img") if image["alt"].startswith("Gain by domain")]
    assert "health: base " in alt and "health: mf-tuned+anchored " in alt and "sports" not in alt
    cells = re.findall(r"sports (\S+) (\d+) ", page.text)
    assert {count for _, count in cells} == {"2"}


def test_costs_are_those_of_the_judged_rollouts(place, page):
    import pyarrow.parquet as pq

    folders = sorted((place / "results/rollouts/mine").glob("seed*/*/rollouts/*/steps.parquet"))
    assert len(folders) == 2 * 8
    steps = [row for path in folders for row in pq.read_table(path).to_pylist()]
    people = sum(row["n_people"] for row in steps if not row["real"])
    tokens = [sum(row[key] for row in steps) for key in ("prompt_tokens", "new_tokens")]
    assert f"mine 16 {people:,} {tokens[0]:,} {tokens[1]:,} " in page.text


def test_equal_files_give_equal_bytes(place, tmp_path):
    shutil.copytree(place / "results", tmp_path / "copy")
    for name in ("a", "b"):
        run_report(tmp_path / "copy", events=str(place / "data"), output=tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_bytes() == (place / "page.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html", "copy"]


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
def test_texts_can_be_left_out(place, tmp_path):
    (tmp_path / "page.html").write_text("old", encoding="utf-8")
    shutil.copytree(place / "results", tmp_path / "copy")
    horizon = "method,horizon,kl,continuation\nmine,304,0.123456," + ACTION + "\n"
    (tmp_path / "copy/horizon.csv").write_text(horizon, encoding="utf-8")
    page = read(run_report(tmp_path / "copy", events=str(place / "data"), output=tmp_path / "page.html", texts=False))
    assert "Texts that people or models wrote are left out" in page.text
    assert "Simulated text and simulated shares are simulated" in page.text
    for text in ("Bridge", "said", "works"):
        assert text not in page.text
    assert "Real shares" in "".join(image["alt"] for image in page.all("img")) and "0.123" in page.text


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
def test_without_events_nothing_real_is_shown(place, tmp_path):
    page = read(run_report(place / "results", output=tmp_path / "page.html"))
    assert page.text.count("were not given") >= 3 and ACTION not in page.text
    assert not [image for image in page.all("img") if "Real shares" in image["alt"]]
    assert "simulated likeliest: " in page.text
    assert "Simulated text and simulated shares are simulated" in page.text


def test_without_rollouts_models_are_left_out(place, tmp_path):
    found = run_report(
        place / "results", events=str(place / "data"), rollouts=tmp_path / "none", output=tmp_path / "page.html"
    )
    page = read(found)
    assert page.text.count("No rollouts were found") == 2
    alts = [image["alt"] for image in page.all("img") if image["alt"].startswith("Real shares")]
    assert len(alts) == 3 and all("base" not in alt for alt in alts)


def rewrite(record, content):
    """Another record, in a folder whose name is its hash."""
    record.write_text(json.dumps(content), encoding="utf-8")
    record.parent.rename(record.parent.with_name(folder_name("threads", content)))


def test_rollouts_of_other_weights_are_not_looked_at(place, tmp_path):
    shutil.copytree(place / "results", tmp_path / "copy")
    [record] = (tmp_path / "copy/rollouts/mine/seed1").glob("threads-*/run.json")
    content = json.loads(record.read_text(encoding="utf-8"))
    content["checkpoint"]["adapter_model.safetensors"] = "0" * 16
    record.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json must be as `mf-llm compare` wrote it"):
        run_report(tmp_path / "copy")
    rewrite(record, content)
    page = read(run_report(tmp_path / "copy"))
    assert re.search(r"mine 9 \d", page.text)
    # Two folders that fit: neither is taken.
    [first] = (tmp_path / "copy/rollouts/base/seed0").glob("threads-*")
    second = shutil.copytree(first, first.with_name("second"))
    content = json.loads((second / "run.json").read_text(encoding="utf-8"))
    content["config"]["batch_tokens"] = 77
    rewrite(second / "run.json", content)
    page = read(run_report(tmp_path / "copy"))
    assert "base, threads/stance, seed 0: 2 folders of rollouts fit the summary" in page.text
    assert re.search(r"base 1 \d", page.text)


def test_other_events_are_refused(place, tmp_path):
    shutil.copytree(place / "data", tmp_path / "data")
    path = tmp_path / "data/threads.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("Bridge", "Tunnel", 1), encoding="utf-8")
    with pytest.raises(InputError, match="must be the events that were compared"):
        run_report(place / "results", events=str(tmp_path / "data"), output=tmp_path / "page.html")
    path.unlink()
    with pytest.raises(InputError, match="got none named 'threads'"):
        run_report(place / "results", events=str(tmp_path / "data"), output=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_missing_cell_is_told(place, tmp_path):
    shutil.copytree(place / "data", tmp_path / "data")
    shutil.copytree(place / "results/rollouts", tmp_path / "rollouts")
    shutil.rmtree(next((tmp_path / "rollouts/mine/seed1").glob("threads-*")))
    run_compare(
        CompareRequest(
            events=str(place / "data"),
            methods=("carry", "base", "mine"),
            output=tmp_path / "out",
            method_list=place / "methods.yaml",
            checkpoints=str(place),
            rollouts=tmp_path / "rollouts",
            model=str(place / "base"),
            simulate=False,
            n_bootstrap=50,
        )
    )
    page = read(run_report(tmp_path / "out", events=str(place / "data"), rollouts=tmp_path / "rollouts"))
    assert "Missing: 1 cell of the table (mine)" in page.text and "1 method could not be ranked" in page.text
    assert "mine threads/stance seed 1: not simulated" in page.text
    # One training seed of two is there: a star, and no mean.
    assert re.search(r"mine tuned – – – \d\.\d+\* ", page.text)


def test_optional_files_become_tables(place, tmp_path):
    shutil.copytree(place / "results", tmp_path / "copy")
    annotators = {"caption": f"Macro-F1 {SCRIPT}", "rows": [{"dimension": "stance", "macro_f1": _interval()}]}
    (tmp_path / "copy/annotators.json").write_text(json.dumps(annotators), encoding="utf-8")
    robustness = "method,change,kl,hash\nmine,paraphrase,0.31849,123e4567\n"
    (tmp_path / "copy/robustness.csv").write_text(robustness, encoding="utf-8")
    page = read(run_report(tmp_path / "copy"))
    assert f"Macro-F1 {SCRIPT}, from annotators.json." in page.text and "stance 0.610 [0.550, 0.670]" in page.text
    assert "mine paraphrase 0.318 123e4567" in page.text and "Long horizons" not in page.text
    (tmp_path / "copy/annotators.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"annotators\.json must be a file"):
        run_report(tmp_path / "copy")


def _interval() -> dict[str, float]:
    return {"value": 0.61, "low": 0.55, "high": 0.67}


def test_many_forecasters_on_many_data_sets(tmp_path):
    """Made in Python: no command, no pairs, nothing about how methods were made."""

    class Constant:
        def __init__(self, name, share):
            self.name, self.share = name, share

        def __call__(self, event, plan, training):
            rest = (1 - self.share) / 2
            return [self.share, rest, rest]

    sets = {f"set{n}": [make_event("abcabcabaabcabca" * 2, f"e{n}{i}") for i in range(3)] for n in range(8)}
    sets["poll"] = [make_survey({wave: [(x, 1.0, {}) for x in "aabbc" * 4] for wave in ("w1", "w2")})]
    sets["empty"] = [make_event("abc" * 10, split="train")]
    methods = [Constant(f"method{n:02}", 0.03 * (n + 1)) for n in range(25)]
    comparison = compare(sets, methods, n_bootstrap=50)
    comparison.save(tmp_path)
    page = read(write_report(tmp_path, event_sets=sets, max_events=1))
    assert "25 methods on 8 data sets (24 test events) and 1 survey (1 group of respondents)" in page.text
    assert "Not judged: empty" in page.text and "empty was not judged: no event of split test" in page.text
    assert "No pairs were compared" in page.text and "No bars" in page.text
    assert "Entropy ratios stand in methods.csv" in page.text
    # The mean without methods.csv is that of the data sets; shares near those of the events win.
    assert "The lowest mean KL over the 9 data sets is that of method1" in page.text
    assert len([image for image in page.all("img") if image["alt"].startswith("Real shares")]) == 9
    with pytest.raises(InputError, match="got none named 'set0'"):
        write_report(tmp_path, event_sets={})


@pytest.mark.parametrize("name", ["summary.json", "results.csv"])
def test_a_folder_without_a_comparison_is_refused(place, tmp_path, name):
    with pytest.raises(
        InputError, match=r"must be the output folder of `mf-llm compare`, got .* without summary\.json"
    ):
        run_report(tmp_path)
    for file in {"summary.json", "results.csv"} - {name}:
        shutil.copy(place / "results" / file, tmp_path / file)
    with pytest.raises(InputError, match=f"without {re.escape(name)}"):
        run_report(tmp_path)
    (tmp_path / "summary.json").write_text("[]", encoding="utf-8")
    (tmp_path / "results.csv").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="got a file without methods, data_sets"):
        run_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
