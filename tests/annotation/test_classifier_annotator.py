"""The classifier: label mapping, fitting on frozen states, saving and loading, and what a text cannot do."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from small_annotators import CATEGORIES, STANCE, worded_event

from mf_llm.annotation import ClassifierAnnotator, fit_classifier
from mf_llm.annotation.classifier_annotator import HeadClassifier
from mf_llm.annotation.classifier_head import ClassifierHead
from mf_llm.annotation.labelled_texts import labelled_texts
from mf_llm.annotation.sequence_classifier import SequenceClassifier, special_frame
from mf_llm.errors import InputError
from mf_llm.models.text_states import TextStates
from mf_llm.models.tiny import tiny_backbone, tiny_tokenizer

FAMILIES = ("qwen2", "llama", "gemma3", "mistral", "gpt2")
TEXTS = ["a short text", "b", "", "another, much longer text about b and c!", "b", "短文"]
TOPICS = ["one", "two", "one", "two", "two", "three"]


class Fixed:
    """A classifier that gives every text the same shares."""

    def __init__(self, shares: dict[str, float]):
        self.labels, self.shares = list(shares), list(shares.values())

    def __call__(self, texts, topics):
        return np.tile(self.shares, (len(texts), 1))

    def fingerprint(self):
        return {"model": "fixed"}


def test_labels_stand_for_categories_by_name_or_by_map():
    by_name = ClassifierAnnotator(Fixed({"C": 0.5, "A": 0.2, "b": 0.3})).annotate(["x"], "t", STANCE)
    np.testing.assert_allclose(by_name.probabilities, [[0.2, 0.3, 0.5]])
    mapped = ClassifierAnnotator(
        Fixed({"L0": 0.1, "L1": 0.2, "L2": 0.2, "L3": 0.3, "L4": 0.2}),
        label_map={"L0": "b", "L1": "a", "L2": "c", "L3": "b", "L4": None},
    )
    p = mapped.annotate(["x", " ", "y"], "t", STANCE)
    np.testing.assert_allclose(p.probabilities[0], [0.25, 0.5, 0.25])  # L4 is left out, L0 and L3 add up
    assert p.failures == (None, "empty_text", None)
    assert mapped.fingerprint()["label_map"]["L4"] is None


@pytest.mark.parametrize(
    ("labels", "label_map", "says"),
    [
        (("a", "b", "LABEL_2"), {}, "which category the label 'LABEL_2' stands for"),
        (("a", "b", "x"), {"x": "d"}, "which category the label 'x' stands for"),
        (("a", "b", "x"), {"x": "b"}, "'c' has none"),
    ],
)
def test_a_label_without_a_category_is_an_error(labels, label_map, says):
    annotator = ClassifierAnnotator(Fixed(dict.fromkeys(labels, 1 / 3)), label_map=label_map)
    with pytest.raises(InputError, match=says):
        annotator.annotate(["x"], "t", STANCE)


def test_a_map_of_labels_the_classifier_does_not_have_is_an_error():
    with pytest.raises(InputError, match="got 'z'"):
        ClassifierAnnotator(Fixed({"a": 1.0}), label_map={"z": "a"})


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_mean_over_the_text_alone_whatever_the_batch(family):
    backbone, tokenizer = tiny_backbone(family), tiny_tokenizer(family)
    together = TextStates(backbone, tokenizer, layer="last", with_topic=True)(TEXTS, TOPICS)
    alone = TextStates(backbone, tokenizer, layer="last", with_topic=True, batch_tokens=1)(TEXTS, TOPICS)
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.isnan(together[2]).all() and np.isfinite(np.delete(together, 2, axis=0)).all()
    np.testing.assert_array_equal(together[1], together[4])

    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    plain = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    before, ids = [first, *plain("one"), *plain("\n")], plain(TEXTS[0])
    with torch.inference_mode():
        hidden = backbone(input_ids=torch.tensor([before + ids]), output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(together[0], hidden[0, len(before) :].mean(dim=0).numpy(), atol=1e-4)


def test_states_without_a_topic_do_not_depend_on_it_and_middle_is_half_way():
    states = TextStates(tiny_backbone("qwen2"), tiny_tokenizer("qwen2"))
    assert states.layer == 1
    np.testing.assert_array_equal(states(["a b"], ["one"]), states(["a b"], ["two"]))
    with_topic = TextStates(tiny_backbone("qwen2"), tiny_tokenizer("qwen2"), with_topic=True)
    assert not np.allclose(with_topic(["a b"], ["one"]), with_topic(["a b"], ["two"]))
    with pytest.raises(InputError, match=r"`layer` must be one of middle, last or 1\.\.2, got 3"):
        TextStates(tiny_backbone("qwen2"), tiny_tokenizer("qwen2"), layer=3)


def test_no_text_makes_a_control_token():
    tokenizer = tiny_tokenizer("qwen3")
    states = TextStates(tiny_backbone("qwen3"), tokenizer, with_topic=True)
    seen = []
    inner = states.backbone.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    states(["<|im_end|><think> a"], ["<|im_start|>system"])
    inner.remove()
    control = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>", "<think>")}
    assert len(seen) == 1 and not control & set(seen[0][1:])


def labelled_events(n: int = 8):
    """Events whose categories can be told from the words."""
    return [worded_event("abcab" if e % 2 else "cabcc", f"e{e}", split="train") for e in range(n)]


@cache
def fitted(**options):
    return fit_classifier(
        labelled_events(), STANCE, backbone=tiny_backbone("qwen2"), tokenizer=tiny_tokenizer("qwen2"), **options
    )


def test_fitting_learns_what_the_words_say():
    made = fitted()
    test = labelled_texts([worded_event("aabbcc", "new")], STANCE)
    read = made.annotator.annotate(test.texts, test.topics, STANCE)
    assert (read.indices() == test.truth).mean() >= 5 / 6
    assert set(made.scores) == {1e-4, 1e-3, 1e-2, 1e-1, 1.0}
    assert made.annotator.classifier.head.record["penalty"]["C"] == min(made.scores, key=made.scores.get)
    assert len(made.held_out) == len(made.texts) == 40
    record = made.annotator.fingerprint()
    assert record["data"] == {
        "sha256": made.texts.content_hash(), "n_texts": 40, "counts": {"a": 12, "b": 12, "c": 16},
    }  # fmt: skip
    assert record["states"] == {"layer": 1, "with_topic": False, "max_tokens": 128, "max_topic_tokens": 64}
    assert record["versions"]["scikit-learn"]


def test_fitting_twice_gives_the_same_head():
    again = fit_classifier(
        labelled_events(), STANCE, backbone=tiny_backbone("qwen2"), tokenizer=tiny_tokenizer("qwen2")
    )
    np.testing.assert_array_equal(again.annotator.classifier.head.weight, fitted().annotator.classifier.head.weight)
    assert again.annotator.fingerprint() == fitted().annotator.fingerprint()


def test_a_head_is_saved_and_applied_without_scikit_learn(tmp_path):
    annotator = fitted().annotator
    folder = annotator.save(tmp_path / "head")
    tiny_backbone("qwen2").save_pretrained(tmp_path / "backbone")
    tiny_tokenizer("qwen2").save_pretrained(tmp_path / "backbone")
    record = json.loads((folder / "classifier_head.json").read_text())
    record["backbone"]["name"] = str(tmp_path / "backbone")
    (folder / "classifier_head.json").write_text(json.dumps(record))
    code = (
        "import sys, json\nsys.modules['sklearn'] = None\n"
        "from mf_llm.annotation import ClassifierAnnotator, Dimension, Category\n"
        f"dimension = Dimension(name='stance', categories=tuple(Category(id=i) for i in {CATEGORIES!r}))\n"
        f"annotator = ClassifierAnnotator.load({str(folder)!r})\n"
        "print(json.dumps(annotator.annotate(['a says', 'c says'], 't', dimension).probabilities.tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = annotator.annotate(["a says", "c says"], "t", STANCE).probabilities
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, rtol=1e-6)


def test_a_head_refuses_another_backbone_and_broken_files(tmp_path):
    folder = fitted().annotator.save(tmp_path)
    with pytest.raises(InputError, match="must have the weights the head"):
        ClassifierAnnotator.load(folder, backbone=tiny_backbone("qwen2", seed=1), tokenizer=tiny_tokenizer("qwen2"))
    loaded = ClassifierAnnotator.load(folder, backbone=tiny_backbone("qwen2"), tokenizer=tiny_tokenizer("qwen2"))
    assert loaded.fingerprint() == json.loads(json.dumps(fitted().annotator.fingerprint()))
    (folder / "classifier_head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="must hold a classifier head"):
        ClassifierHead.load(folder)
    with pytest.raises(InputError, match="must hold a classifier head"):
        ClassifierHead.load(tmp_path / "nowhere")


def test_two_categories_and_one_that_never_occurs():
    events = [worded_event("abab", f"e{e}") for e in range(4)]
    made = fit_classifier(events, STANCE, backbone=tiny_backbone("gpt2"), tokenizer=tiny_tokenizer("gpt2"))
    p = made.annotator.annotate(["a says e1 0", "b says e1 1"], "t", STANCE).probabilities
    assert p[:, 2].max() < 1e-6
    assert p[0, 0] > p[1, 0]


def test_class_weights_lift_rare_categories():
    events = [worded_event("aaaaaaaab" if e % 2 else "aaaaaaaaa", f"e{e}") for e in range(6)]
    options = {"backbone": tiny_backbone("qwen2"), "tokenizer": tiny_tokenizer("qwen2"), "penalties": (1e-3,)}
    shares = {
        weight: fit_classifier(events, STANCE, class_weight=weight, **options).held_out.probabilities[:, 1].mean()
        for weight in (None, "balanced")
    }
    assert shares["balanced"] > 2 * shares[None]
    with pytest.raises(InputError, match="`class_weight` must be None or 'balanced'"):
        fit_classifier(events, STANCE, class_weight="even", **options)


@pytest.mark.parametrize("events", [[worded_event("abc")], [worded_event("aa", "x"), worded_event("aa", "y")]])
def test_fitting_needs_two_categories_in_two_events(events):
    with pytest.raises(InputError, match="must hold two categories of 'stance' in two events"):
        fit_classifier(events, STANCE, backbone=tiny_backbone("qwen2"), tokenizer=tiny_tokenizer("qwen2"))


def test_labelled_texts_are_a_keyed_sample_with_their_topics():
    events = [worded_event("ab.c", "x"), worded_event("cc", "y")]
    texts = labelled_texts(events, STANCE)
    assert texts.texts == ["a says x 0", "b says x 1", "c says x 3", "c says y 0", "c says y 1"]
    assert texts.topics == ["topic x"] * 3 + ["topic y"] * 2
    assert texts.counts == {"a": 1, "b": 1, "c": 3}
    assert labelled_texts(events, STANCE, limit=3).texts == labelled_texts(events, STANCE, limit=3).texts
    assert len(labelled_texts(events, STANCE, limit=3)) == 3
    with pytest.raises(InputError, match="must hold texts labelled with 'stance'"):
        labelled_texts([worded_event("..")], STANCE)


def sequence_classifier(folder, family: str = "bert"):
    """A tiny random classifier with the categories as labels."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    labels = {"num_labels": 3, "id2label": dict(enumerate(CATEGORIES))}
    torch.manual_seed(0)
    if family == "bert":
        inner = Tokenizer(models.BPE(unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        inner.train_from_iterator(TEXTS, trainer)
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, **{f"{name}_token": token for name, token in names.items()}
        )
        config = AutoConfig.for_model(
            "bert", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=40, initializer_range=0.5, **labels,
        )  # fmt: skip
    else:
        tokenizer, config = tiny_tokenizer(family), tiny_backbone(family).config
        config.update(labels)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_checkpoint_reads_each_text_as_it_would_alone(tmp_path, family):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = sequence_classifier(tmp_path / family, family)
    annotator = ClassifierAnnotator.from_checkpoint(folder)
    read = annotator.annotate(TEXTS, TOPICS, STANCE)
    assert read.failures == (None, None, "empty_text", None, None, None)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    for text, row in zip(TEXTS, read.probabilities, strict=True):
        if text:
            with torch.inference_mode():
                logits = model.eval()(**tokenizer(text, return_tensors="pt")).logits
            np.testing.assert_allclose(row, logits.double().softmax(dim=-1)[0].numpy(), atol=1e-5)
    assert annotator.fingerprint()["model"] == str(folder)


def test_a_text_cannot_close_its_frame_and_is_cut_to_what_the_model_takes(tmp_path):
    classifier = SequenceClassifier.from_pretrained(sequence_classifier(tmp_path / "bert"))
    assert special_frame(classifier.tokenizer) == ([2], [3])
    assert classifier.max_tokens == 36
    seen = []
    classifier.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    assert np.isfinite(classifier(["x [SEP] y " * 50], ["t"])).all()
    assert seen[0].count(3) == 1 and seen[0][-1] == 3 and len(seen[0]) <= 38


def test_a_checkpoint_without_a_classification_head_is_refused(tmp_path):
    tiny_backbone("gpt2").save_pretrained(tmp_path)
    tiny_tokenizer("gpt2").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is missing and would be random"):
        ClassifierAnnotator.from_checkpoint(tmp_path)


def test_a_checkpoint_is_not_saved_again():
    with pytest.raises(InputError, match="Only a head fitted"):
        ClassifierAnnotator(Fixed({"a": 1.0})).save("x")


def test_a_head_and_states_of_other_sizes_are_refused():
    head = ClassifierHead("stance", CATEGORIES, np.zeros((3, 7)), np.zeros(3), {})
    with pytest.raises(InputError, match="`states` must have 7 numbers, got 32"):
        HeadClassifier(head, TextStates(tiny_backbone("qwen2"), tiny_tokenizer("qwen2")))(["x"], ["t"])
