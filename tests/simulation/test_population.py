"""People who read the same are one state; tables of any size are merged as they are read."""

import gzip
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from small_events import small_event, with_turns

from mf_llm import InputError
from mf_llm.models.prompts import render_state
from mf_llm.simulation import Population

PEOPLE = [
    {
        "age": 18 + 7 * i % 60,
        "town": ("north", "south")[i % 2],
        "employed": i % 3 == 0,
        "children": (None, 2)[i % 4 // 2],
    }
    for i in range(500)
]
BINS = {"age": [18, 30, 45, None], "town": {"a town": None}}


def hand_count(records, weights=None):
    records, found = list(records), Counter()
    for record, weight in zip(records, weights or [1.0] * len(records), strict=True):
        found["\n".join(render_state(record))] += weight
    return dict(found)


def counted(population):
    pairs = zip(population.states, population.weights, strict=True)
    return {"\n".join(render_state(state)): weight for state, weight in pairs}


def write(path, records, **options):
    table = pa.Table.from_pylist(records)
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
    else:
        pa.csv.write_csv(table, path)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def test_merging_equals_a_hand_count():
    population = Population.from_records(PEOPLE)
    assert counted(population) == hand_count(PEOPLE)
    assert population.n_people == 500 == sum(population.counts) and len(population) == len(hand_count(PEOPLE))
    assert set(population.fields) == set(PEOPLE[0])
    assert Population.from_records(PEOPLE[::-1]) == population


def test_what_reads_the_same_is_one_state():
    states = [{"age": 3}, {"age": 3.0}, {"age": 3, "town": ""}, {"age": 3, "town": None}, {"age": "3"}, "age: 3"]
    population = Population.from_records(states)
    assert len(population) == 1 and population.weights == (6.0,)
    assert len(Population.from_records(["a", "b", "a", {}, ""])) == 3


def test_weights_are_summed_and_are_no_part_of_a_profile():
    people = [("north", 0.5), ("south", 2), ("north", 1.25), ("nowhere", 0)]
    records = [{"town": town, "w": weight} for town, weight in people]
    population = Population.from_records(records, weight="w")
    assert population.states == ({"town": "north"}, {"town": "south"}) and population.weights == (1.75, 2.0)
    assert population.n_people == 4 and population.counts == (2, 2)
    assert population.shares.tolist() == pytest.approx([1.75 / 3.75, 2 / 3.75])


def test_counts_are_whole_and_sum_to_the_people():
    rng = np.random.default_rng(3)
    for total in (1, 7, 1000, 10**12):
        weights = rng.random(50)
        population = Population(tuple(map(str, range(50))), tuple(weights / weights.sum() * total))
        assert sum(population.counts) == population.n_people == total and min(population.counts) >= 0
        assert np.abs(np.array(population.counts) - population.shares * total).max() < 1
    assert Population(("a", "b"), (10**15 + 1, 3.0)).counts == (10**15 + 1, 3)


def test_as_many_people_in_the_same_shares():
    population = Population.from_records(PEOPLE)
    for n_people in (1, 500, 10_000_000, 8_000_000_000):
        scaled = population.scaled(n_people)
        assert scaled.n_people == n_people == sum(scaled.counts) and scaled.states == population.states
        np.testing.assert_allclose(scaled.shares, population.shares, rtol=1e-12)
    with pytest.raises(InputError, match=r"`n_people` must be a whole number of at least 1, got 0"):
        population.scaled(0)


def test_people_of_an_event_and_of_a_wave():
    event = small_event(waves=(4, 6))
    everybody, second = Population.from_event(event), Population.from_event(event, wave="w2")
    assert counted(everybody) == hand_count([t.state for t in event.turns], [t.weight for t in event.turns])
    assert second.n_people == round(sum(turn.weight for turn in event.turns[4:])) and len(second) == 6
    with pytest.raises(InputError, match=r"`wave` must be one of the waves of event 'rumour-1', got 'w9'.*w1, w2"):
        Population.from_event(event, wave="w9")
    changed = with_turns(event, at={i: {"action": "X", "labels": {}, "kind": "X"} for i in range(10)})
    assert Population.from_event(replace(changed, dimensions={})) == everybody


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["people.parquet", "people.csv", "people.csv.gz"])
@pytest.mark.parametrize("rows", [1, 7, 499, 500, 10_000])
def test_a_table_gives_the_same_whatever_the_batch(tmp_path, name, rows):
    path = write(tmp_path / name, PEOPLE)
    expected = Population.from_records(PEOPLE)
    assert Population.from_table(path, batch_rows=rows) == expected
    assert Population.from_table(str(path), bins=BINS, batch_rows=rows) == expected.coarsened(BINS)


def test_merged_rows_that_wait_are_merged_with_one_another(tmp_path, monkeypatch):
    path = write(tmp_path / "people.parquet", PEOPLE)
    monkeypatch.setattr("mf_llm.simulation.population_table._WAITING_ROWS", 10)
    assert Population.from_table(path, batch_rows=9) == Population.from_records(PEOPLE)


def test_folders_row_groups_dictionaries_and_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    expected = Population.from_records(PEOPLE)
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "a.parquet", PEOPLE[:200], row_group_size=30)
    write(tmp_path / "parts" / "b.parquet", PEOPLE[200:], use_dictionary=False)
    assert Population.from_table(tmp_path / "parts") == expected
    table = pa.Table.from_pylist(PEOPLE)
    encoded = table.set_column(1, "town", table.column("town").dictionary_encode())
    pq.write_table(encoded, tmp_path / "encoded.parquet")
    assert Population.from_table(tmp_path / "encoded.parquet", batch_rows=33) == expected
    assert Population.from_table(datasets.Dataset(table), batch_rows=33) == expected


def test_columns_and_weights_of_a_table(tmp_path):
    rows = [record | {"id": i, "w": (i % 5) / 2} for i, record in enumerate(PEOPLE)]
    path = write(tmp_path / "people.parquet", rows)
    found = Population.from_table(path, columns=["town", "employed"], weight="w", batch_rows=64)
    assert len(found) == 4 and set(found.fields) == {"town", "employed"}
    profiles = [{"town": row["town"], "employed": row["employed"]} for row in rows]
    assert counted(found) == hand_count(profiles, [row["w"] for row in rows])


def test_values_of_all_kinds(tmp_path):
    import datetime

    table = pa.table(
        {
            "x": pa.array([1.0, math.nan, None, 1.5], pa.float64()),
            "day": pa.array([datetime.date(2020, 1, 2)] * 4),
            "nothing": pa.nulls(4),
            "yes": [True, False, None, True],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = Population.from_table(tmp_path / "t.parquet")
    assert sorted(counted(found)) == [
        "day: 2020-01-02",
        "day: 2020-01-02\nyes: no",
        "x: 1\nday: 2020-01-02\nyes: yes",
        "x: 1.5\nday: 2020-01-02\nyes: yes",
    ]


def test_profiles_that_are_texts(tmp_path):
    rows = [{"profile": text, "n": n} for text, n in [("a nurse", 3), ("a farmer", 2), ("a nurse", 1), (None, 1)]]
    path = write(tmp_path / "t.parquet", rows)
    found = Population.from_table(path, columns="profile", weight="n")
    assert found == Population(("", "a farmer", "a nurse"), (1.0, 2.0, 4.0))
    assert Population.load(found.save(tmp_path / "saved.parquet")) == found


def test_a_population_survives_saving_and_loading(tmp_path):
    for population in (Population.from_records(PEOPLE), Population.from_records(PEOPLE).coarsened(BINS).scaled(77)):
        assert Population.load(population.save(tmp_path / "p.parquet")) == population
    mixed = Population.from_records([{"x": 1}, {"x": "many"}, {"y": True}])
    assert counted(Population.load(mixed.save(tmp_path / "m.parquet"))) == counted(mixed)
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.column_names[-1] == "people" and table.column("people").to_pylist() == [1.0, 1.0, 1.0]
    with pytest.raises(InputError, match="all texts or all fields"):
        Population(("a", {"x": 1}), (1, 1)).to_table()
    with pytest.raises(InputError, match="must not have a field 'people'"):
        Population(({"people": 1},), (1,)).to_table()


# -- coarsening -------------------------------------------------------------------------------------------------------


def test_coarsening_merges_and_loses_nobody():
    population = Population.from_records(PEOPLE)
    coarse = population.coarsened(BINS)
    label = {0: "18 to 29", 1: "30 to 44", 2: "45 and over"}
    records = [
        record | {"age": label[(record["age"] >= 30) + (record["age"] >= 45)], "town": "a town"} for record in PEOPLE
    ]
    assert counted(coarse) == hand_count(records) and coarse.n_people == population.n_people
    assert len(coarse) == 12 < len(population)
    dropped = population.coarsened({"age": None, "children": None})
    assert counted(dropped) == hand_count({k: r[k] for k in ("town", "employed")} for r in PEOPLE)
    assert population.coarsened({}) == population


def test_representatives_are_people_and_stand_for_all_of_their_group():
    population = Population.from_records([record | {"name": i % 50} for i, record in enumerate(PEOPLE)])
    bins = {"age": [18, 30, 45, None], "name": None}
    groups = population.coarsened(bins)
    draws = [population.represented(bins, seed=seed) for seed in range(200)]
    assert draws[0] == population.represented(bins) != draws[1]
    mean = Counter()
    for drawn in draws:
        assert len(drawn) == len(groups) and set(counted(drawn)) <= set(counted(population))
        assert Population.from_records(drawn.states).coarsened(bins).states == groups.states
        assert sorted(drawn.weights) == sorted(groups.weights)
        for one, weight in zip(drawn.states, drawn.weights, strict=True):
            mean[one["name"] < 10] += weight / len(draws)
    # In the mean over draws everybody counts as they do in the full population: 100 of 500 people.
    assert mean[True] + mean[False] == pytest.approx(500)
    spread = np.sqrt(sum(weight**2 for weight in groups.weights) * 0.2 * 0.8 / len(draws))
    assert abs(mean[True] - 100) < 4 * spread


def test_missing_values_stay_missing_unless_a_bin_lists_them():
    population = Population.from_records([{"x": 1}, {"x": 5}, {"y": 1}, "a text"])
    assert set(counted(population.coarsened({"x": [0, 10]}))) == {"x: 0 to 9", "y: 1", "a text"}
    named = population.coarsened({"x": {"unknown": [None], "known": None}})
    assert set(counted(named)) == {"x: known", "x: unknown\ny: 1", "a text"}


def test_texts_have_no_fields():
    with pytest.raises(InputError, match="`bins` must name fields of the population, got 'x'"):
        Population(("a", "b"), (1, 1)).coarsened({"x": None})


# -- errors -----------------------------------------------------------------------------------------------------------


def test_what_is_no_population_is_refused():
    with pytest.raises(InputError, match="at least one, got 0 and 0"):
        Population((), ())
    with pytest.raises(InputError, match="got 1 and 2"):
        Population(("a",), (1, 2))
    for weight in (0, -1, math.nan, math.inf, "3", None, True):
        with pytest.raises(InputError, match="`weights` must be positive numbers"):
            Population(("a",), (weight,))
    with pytest.raises(InputError, match="must differ in what prompts show"):
        Population(({"x": 1}, {"x": 1.0}), (1, 1))
    with pytest.raises(InputError, match="at least one"):
        Population.from_records([])
    for weight in (-1, math.nan, None, "1"):
        with pytest.raises(InputError, match=r"row 2: the weight `w` must be a number of at least 0"):
            Population.from_records([{"w": 1, "x": 1}, {"w": weight, "x": 2}], weight="w")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"x": 1}] * 5, {"columns": ["y"]}, "must name columns of the table, got 'y'; there are x."),
        ([{"x": 1}] * 5, {"weight": "w"}, "must name columns of the table, got 'w'"),
        ([{"x": 1, "w": 1}], {"weight": "w", "columns": ["x", "w"]}, "and not the weight"),
        ([{"x": 1}], {"columns": ["x", "x"]}, "must name each column once"),
        ([{"x": 1}], {"bins": {"x": None}}, "must leave a field of the profiles"),
        ([{"x": 1}], {"bins": {"z": None}}, "`bins` must name fields of the population, got 'z'"),
        ([{"x": [1, 2]}], {}, r"must hold texts, numbers, booleans or dates, got list<.*> in 'x'"),
        ([{"x": 1, "w": "one"}], {"weight": "w"}, "`weight` must be a column of numbers, got string in 'w'"),
        (
            [{"x": 1, "w": 1.0}] * 12 + [{"x": 1, "w": -2.0}],
            {"weight": "w"},
            r"people.parquet, row 13: the weight `w` must be a number of at least 0, got -2.0",
        ),
        ([{"x": 1, "w": 1.0}, {"x": 1, "w": None}], {"weight": "w"}, r"row 2: the weight `w` .* got None"),
        ([{"x": 1, "w": math.nan}], {"weight": "w"}, r"row 1: the weight `w` .* got nan"),
        ([{"x": 1, "w": math.inf}], {"weight": "w"}, r"row 1: the weight `w` .* got inf"),
        (
            [{"x": i} for i in range(20)],
            {"bins": {"x": [0, 5, 17]}},
            r"people.parquet, row 18: `x` must lie in one of the bins 0 to 4, 5 to 16, got 17; nobody is dropped",
        ),
        (
            [{"x": "a"}] * 9 + [{"x": "b"}],
            {"bins": {"x": {"A": ["a"]}}},
            r"row 10: `x` must lie in one of the bins A, got 'b'",
        ),
        ([{"x": "12"}], {"bins": {"x": [0, 20]}}, r"row 1: `x` must lie in one of the bins 0 to 19, got '12'"),
    ],
)
def test_mistakes_in_tables_are_named_with_their_row(tmp_path, rows, options, message):
    path = tmp_path / "people.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(InputError, match=message):
        Population.from_table(path, batch_rows=4, **options)


def test_a_table_without_rows(tmp_path):
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"`source` must hold somebody, got no row in .*t.parquet"):
        Population.from_table(tmp_path / "t.parquet")


def test_an_outside_value_of_a_population_is_named():
    with pytest.raises(InputError, match=r"states\[1\]: `x` must lie in one of the bins 0 to 4, got 9"):
        Population.from_records([{"x": 1}, {"x": 9}]).coarsened({"x": [0, 5]})
    with pytest.raises(InputError, match="`bins` must leave a field"):
        Population.from_records([{"x": 1}]).coarsened({"x": None})


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no")
    (tmp_path / "x.json").write_text("{}")
    for name in ("x.parquet", "none.parquet", "none.csv"):
        with pytest.raises(InputError, match="must be a table that can be read, got " + re.escape(str(tmp_path))):
            Population.from_table(tmp_path / name)
    with pytest.raises(InputError, match=r"must end in .parquet, .csv or .csv.gz"):
        Population.from_table(tmp_path / "x.json")
    with pytest.raises(InputError, match="must be a table that can be read"):
        Population.load(tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"a Hugging Face data set, got list"):
        Population.from_table([{"x": 1}])
