"""The rows of the supervised baseline are what a simulation reads, and their budget is kept."""

import json

import pytest
import torch
from datasets import Dataset
from made_rows import OPTIONS, crowd, person, rows_of_lengths, transition

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation.readout import encode_prefix, option_log_likelihoods

pytest.importorskip("peft")
pytest.importorskip("trl")

from mf_llm.training.sft import count_tokens, sft_rows, within_budget
from mf_llm.training.transitions import answer_of, transition_features


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {family: str(save_tiny_backbone(root / family, family)) for family in ("llama", "gemma3", "gpt2")}


@pytest.fixture(params=["llama", "gemma3", "gpt2"])
def family(request):
    return request.param


@pytest.fixture
def processor(folders, family):
    return MFLLMProcessor.from_backbones(folders[family])


@pytest.fixture
def llama(folders):
    return MFLLMProcessor.from_backbones(folders["llama"])


def prompt_and_answer(row):
    length = next(i for i, label in enumerate(row["labels"]) if label != -100)
    assert row["labels"] == [-100] * length + row["input_ids"][length:]
    return row["input_ids"][:length], row["input_ids"][length:]


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_topic_profile_and_the_option_and_nothing_of_the_past(llama):
    rows = sft_rows([transition([person(1, "No!", {"age": 41}), person(0, "Yes.", {"age": 42})])], llama)
    decode = llama.policy_tokenizer.decode
    first, second = [[decode(part) for part in prompt_and_answer(row)] for row in rows]
    assert [first[1], second[1]] == [" oppose\nComment:", " support\nComment:"]
    assert "The council closes the bridge." in first[0] and "age: 41" in first[0] and "age: 42" in second[0]
    assert first[0].endswith("My stance is")
    assert not any(word in first[0] + second[0] for word in ("secret", "50 %", "What people say", "No!", "Yes."))
    # Neighbours read the options in opposite orders.
    listed = [text.split("one of: ")[1].split(")")[0].split("; ") for text, _ in (first, second)]
    assert listed[0] == listed[1][::-1] and sorted(listed[0]) == sorted(OPTIONS)


@pytest.mark.parametrize("kind", ["choice", "label_text"])
def test_what_is_trained_is_the_likelihood_that_a_simulation_reads(folders, family, processor, kind):
    model = MFLLMForSimulation.from_backbones(folders[family], dtype="float32")
    data = crowd(4, kind=kind)
    answer = answer_of(data)
    for n, row in enumerate(sft_rows([data], processor)):
        who = data["people"][n]
        segment = processor.person_segment(json.loads(who["state"]), answer)
        prefix = row["input_ids"][: len(prompt_and_answer(row)[0]) - len(segment)]
        read = option_log_likelihoods(
            model.policy, encode_prefix(model.policy, prefix), [segment], processor.option_ids(answer)
        )
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_p = torch.log_softmax(model(policy_input_ids=ids).policy_logits[0, :-1].double(), dim=-1)
        scored = log_p.gather(1, ids[0, 1:, None])[:, 0]
        trained = scored[torch.tensor(row["labels"][1:]) != -100].sum()
        assert float(trained) == pytest.approx(read[0, who["label"]], abs=1e-3)


def test_the_whole_action_ends_with_its_end_token(processor):
    people = [person(0, "It is  fine.\nReally."), person(1, "Sharing only"), person(2, "")]
    rows = sft_rows([transition(people, silent=["oppose"])], processor, target="action")
    answers = [prompt_and_answer(row)[1] for row in rows]
    options = processor.option_ids(answer_of(transition([])))
    end = processor.frame("policy").end_ids[0]
    encode = processor.encoder("policy").encode
    assert answers[0] == options[0] + encode(" It is fine. Really.") + [end]
    assert answers[1] == options[1]  # who writes nothing answers with the label alone
    assert answers[2] == options[2] + [end]  # who could write and did not ended at once


def test_a_text_that_is_cut_teaches_no_end(llama):
    limits = PromptLimits(max_action_tokens=8)
    data = transition([person(0, "one two three four five six seven eight nine ten")])
    ids = prompt_and_answer(sft_rows([data], llama, target="action", limits=limits)[0])[1]
    option = llama.option_ids(answer_of(data))[0]
    assert len(ids) == len(option) + 8 and ids[-1] not in llama.frame("policy").end_ids


def test_free_text_and_choices(llama):
    decode = llama.policy_tokenizer.decode
    free = transition([person(-1, "Hello there."), person(-1, " ")], kind="text")
    [row] = sft_rows([free], llama, target="action")
    prompt, answer = (decode(part) for part in prompt_and_answer(row))
    assert prompt.endswith("Comment:") and answer == " Hello there.<|eot_id|>"
    [row] = sft_rows([transition([person(2)], kind="choice")], llama, target="action")
    assert decode(prompt_and_answer(row)[1]) == " question<|eot_id|>"
    with pytest.raises(InputError, match="target='action'"):
        sft_rows([free], llama)
    with pytest.raises(InputError, match="`target` must be one of"):
        sft_rows([free], llama, target="words")


def test_rows_of_the_data_set_and_of_plain_values_are_equal(llama):
    made = [crowd(5), crowd(5, draw=1), transition([person(-1, "Hi.", "a baker")], kind="text")]
    stored = Dataset.from_list(made, features=transition_features())
    assert sft_rows(stored, llama, target="action").to_list() == sft_rows(made, llama, target="action").to_list()


def test_people_without_weights_stand_once_and_others_in_proportion(llama):
    plain = sft_rows([crowd(12)], llama)
    ages = [llama.policy_tokenizer.decode(row["input_ids"]).split("age: ")[1][:2] for row in plain]
    assert ages == [str(20 + i) for i in range(12)]
    weights = [3.0, 1.0, 0.5, 0.5, 1.0]
    counts = [0] * 5
    for draw in range(40):
        people = [person(0, state={"age": 50 + i}, weight=weight) for i, weight in enumerate(weights)]
        rows = sft_rows([transition(people, draw=draw)], llama)
        assert len(rows) == 5
        taken = [int(llama.policy_tokenizer.decode(row["input_ids"]).split("age: ")[1][:2]) - 50 for row in rows]
        for i, weight in enumerate(weights):
            n = taken.count(i)
            assert n in (int(weight * 5 / 6), int(weight * 5 / 6) + 1)
            counts[i] += n
    expected = [40 * 5 * weight / 6 for weight in weights]
    assert counts == pytest.approx(expected, abs=12)


def test_the_seed_changes_orders_and_nothing_else_does(llama):
    data = [crowd(4), crowd(4, draw=1), crowd(4, event_id="other")]
    assert sft_rows(data, llama).to_list() == sft_rows(data, llama).to_list()
    firsts = {tuple(row["input_ids"]) for seed in range(8) for row in sft_rows(data[:1], llama, seed=seed)}
    assert len(firsts) > 8  # 4 people, and more than two orders


# -- budget -----------------------------------------------------------------------------------------------------------


def test_budget_is_never_exceeded_and_missed_by_less_than_a_row():
    rows = rows_of_lengths(*range(5, 25))
    assert count_tokens(rows) == sum(range(5, 25))
    for budget in (30, 100, 289, 290, 1000):
        spent = count_tokens(within_budget(rows, budget))
        assert budget - 24 < spent <= budget
    assert sorted(map(len, within_budget(rows, 290)["input_ids"])) == list(range(5, 25))


def test_a_large_budget_goes_through_all_rows_again():
    lengths = list(map(len, within_budget(rows_of_lengths(5, 6, 7, 8), 26 * 3)["input_ids"]))
    assert len(lengths) == 12
    assert [sorted(lengths[i : i + 4]) for i in (0, 4, 8)] == [[5, 6, 7, 8]] * 3
    orders = {tuple(map(len, within_budget(rows_of_lengths(5, 6, 7, 8), 26, seed=s)["input_ids"])) for s in range(9)}
    assert len(orders) > 3


def test_a_budget_below_the_longest_row_is_refused():
    with pytest.raises(InputError, match=r"at least the longest row \(9 tokens\), got 8"):
        within_budget(rows_of_lengths(3, 9), 8)
