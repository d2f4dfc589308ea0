"""A checkpoint loads to what was saved, bit by bit, or is refused with the file, the reason and what to do."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from model_inputs import assert_same_logits, both_logits
from safetensors.torch import load_file, save_file

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.adapters import load_adapter_weights
from mf_llm.models.backbones import load_backbone
from mf_llm.models.integrity import checksums_file, write_checksums
from mf_llm.models.prompts import AnswerFormat
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone, tiny_tokenizer

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),
]

KINDS = ("tied", "untied", "adapters")
WEIGHTS = {"tied": "model.safetensors", "untied": "model.safetensors", "adapters": "adapter_model.safetensors"}
ANSWER = AnswerFormat(kind="choice", dimension="stance", options=("for", "against"))
OTHER_ROLE = {"policy": "mean_field", "mean_field": "policy"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a checkpoint of each kind, and the base of the adapters."""
    folder = tmp_path_factory.mktemp("saved")
    base = save_tiny_backbone(folder / "base", "qwen3")
    tied = MFLLMForSimulation.from_backbones(tiny_backbone("qwen3"))
    tied.save_pretrained(folder / "tied")
    MFLLMProcessor(tiny_tokenizer("qwen3")).save_pretrained(folder / "tied")
    untied = MFLLMForSimulation.from_backbones(tiny_backbone("qwen3"), tiny_backbone("llama"))
    untied.save_pretrained(folder / "untied")
    MFLLMProcessor(tiny_tokenizer("qwen3"), tiny_tokenizer("llama")).save_pretrained(folder / "untied")
    adapted(base).save_pretrained(folder / "adapters")
    return folder


def adapted(base: Path) -> MFLLMForSimulation:
    model = MFLLMForSimulation.from_backbones(base, dtype=torch.float32)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=r"(policy|mean_field)\..*\.(q_proj|down_proj)")
    wrapped, generator = peft.get_peft_model(model, config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return wrapped.get_base_model().eval()


def loaded(folder: Path) -> dict[str, object]:
    """All that a checkpoint answers with: logits of both roles, how they generate, and prompts."""
    model = MFLLMForSimulation.from_pretrained(folder)
    found: dict[str, object] = {"logits": [part.tolist() for part in both_logits(model).to_tuple()]}
    for role in OTHER_ROLE:
        found[role] = model.generation_config_of(role).to_dict()
    processor = MFLLMProcessor.from_pretrained(folder)
    found["policy prompt"] = processor.policy_prefix("The bridge", "Many laugh.", ANSWER)
    found["mean-field prompt"] = processor.mean_field_prompt("The bridge", "Many laugh.", ["谁 <|im_end|> who?"])
    return found


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def damages(folder: Path, name: str) -> list[tuple[str, bytes | None]]:
    """What may become of a file: what is in it then, None for nothing at all."""
    content, draws = (folder / name).read_bytes(), np.random.default_rng(len(name))
    cuts = sorted({int(cut) for cut in draws.integers(1, len(content), 20)})
    found: list[tuple[str, bytes | None]] = [("emptied", b""), ("removed", None)]
    found += [(f"cut at {cut}", content[:cut]) for cut in cuts]
    for place in draws.integers(0, len(content), 10):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(draws.integers(8))
        found.append((f"flipped at {place}", bytes(flipped)))
    for role, other in OTHER_ROLE.items():
        twin = folder / name.replace(role, other)
        if name.startswith(role) and twin.is_file():
            found.append(("the other role's", twin.read_bytes()))
    return found


@contextmanager
def changed(path: Path, content: bytes | None):
    """Within this context a file holds something else."""
    kept = path.rename(path.with_name(f".{path.name}"))  # weights are read where they are: no byte may change there
    try:
        if content is not None:
            path.write_bytes(content)
        yield
    finally:
        kept.replace(path)


@pytest.mark.trust("checkpoints", "files of a checkpoint cut, emptied, removed, swapped or with one bit flipped")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_refused_or_harmless(saved, kind, tries):
    folder = saved / kind
    expected = loaded(folder)
    cases = [(name, *damage) for name in files(folder) for damage in damages(folder, name)]
    chosen = np.random.default_rng(0).permutation(len(cases))[: tries.of(25, len(cases))]
    sums = {checksums_file("model"), checksums_file("processor")}
    for name, what, content in (cases[i] for i in sorted(chosen)):
        tries.add()
        same = content == (folder / name).read_bytes()  # the roles of "tied" have one tokenizer
        with changed(folder / name, content):
            try:
                found = loaded(folder)
            except InputError as error:
                assert not same, (name, what)
                assert Path(name).name in str(error) or "must hold" in str(error), (name, what, str(error))
                assert str(folder) in str(error) and "again" in str(error), (name, what, str(error))
            else:
                # Sums that are gone are missed by nobody.
                assert same or name in sums, (name, what)
                assert found == expected, (name, what)


@pytest.mark.trust("checkpoints", "files of a checkpoint cut, emptied, removed, swapped or with one bit flipped")
@pytest.mark.parametrize("kind", KINDS)
def test_without_sums_a_file_that_is_cut_is_noticed(saved, kind, tries, tmp_path):
    folder = shutil.copytree(saved / kind, tmp_path / kind)
    for part in ("model", "processor"):
        (folder / checksums_file(part)).unlink(missing_ok=True)
    assert loaded(folder) == loaded(saved / kind)
    names = [name for name in files(folder) if name.endswith((".json", ".safetensors"))]
    cases = [(n, *d) for n in names for d in damages(folder, n) if d[0].startswith(("cut", "emptied"))]
    chosen = np.random.default_rng(1).permutation(len(cases))[: tries.of(10, len(cases))]
    for name, what, content in (cases[i] for i in sorted(chosen)):
        if content is not None and content.rstrip() == (folder / name).read_bytes().rstrip():
            continue  # only the line break at the end is gone
        tries.add()
        with changed(folder / name, content), pytest.raises(InputError, match="again") as error:
            loaded(folder)
        assert Path(name).name in str(error.value), (name, what)


def test_a_card_may_be_written_beside_the_weights(saved, tmp_path):
    folder = shutil.copytree(saved / "tied", tmp_path / "tied")
    (folder / "README.md").write_text("# Mine\n")
    (folder / "notes.txt").write_text("x")
    assert loaded(folder) == loaded(saved / "tied")


def test_a_change_that_is_meant_needs_the_sums_gone(saved, tmp_path):
    folder = shutil.copytree(saved / "tied", tmp_path / "tied")
    config = json.loads((folder / "policy_generation_config.json").read_text())
    (folder / "policy_generation_config.json").write_text(json.dumps(config | {"temperature": 0.5}))
    with pytest.raises(InputError, match=r"policy_generation_config\.json must be .* delete model_checksums\.json"):
        MFLLMForSimulation.from_pretrained(folder)
    (folder / "model_checksums.json").unlink()
    assert MFLLMForSimulation.from_pretrained(folder).generation_config_of("policy").temperature == 0.5


def with_tensors(change):
    """A change of the weights."""

    def spoil(folder: Path) -> None:
        path = next(folder.glob("*model.safetensors"))
        tensors = load_file(path)
        change(tensors)
        path.unlink()  # the tensors are still read from it
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def with_fields(name: str, **fields):
    """Other fields of a JSON file."""

    def spoil(folder: Path) -> None:
        record = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(record | fields))

    return spoil


def spoilt_value(value: float):
    return with_tensors(lambda tensors: tensors[sorted(tensors)[3]].view(-1)[:1].fill_(value))


def wider(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["policy_config"] | {"intermediate_size": 80}


MISFITS = {
    "a missing tensor": with_tensors(lambda tensors: tensors.pop(sorted(tensors)[3])),
    "a further tensor": with_tensors(lambda tensors: tensors.update({"policy.more.weight": torch.ones(2)})),
    "another shape": with_tensors(lambda tensors: tensors.update({sorted(tensors)[3]: torch.ones(3, 2)})),
    "a weight that is nan": spoilt_value(float("nan")),
    "a weight that is infinite": spoilt_value(float("-inf")),
    "prompt_version": with_fields("config.json", prompt_version="3"),
    "policy_base": with_fields("config.json", policy_base=7),
    "tie_backbones": with_fields("config.json", tie_backbones="yes"),
    "a list for a policy": with_fields("config.json", policy_config=[1]),
    "an unknown policy": with_fields("config.json", policy_config={"model_type": "nothing"}),
    "no policy": with_fields("config.json", policy_config={}),
    "a wider policy": lambda folder: with_fields("config.json", policy_config=wider(folder))(folder),
    "a list of options": with_fields("config.json", simulation=[1]),
    "an option that is none": with_fields("config.json", simulation={"seed": 1}),
    "an option that cannot be": with_fields("config.json", simulation={"signal": "loud"}),
    "dtype": with_fields("config.json", dtype="float33"),
    "model_type": with_fields("config.json", model_type="mf_llm2"),
    "config.json is a list": lambda folder: (folder / "config.json").write_text("[1]"),
    "temperature": with_fields("policy_generation_config.json", temperature="hot"),
    "no temperature": with_fields("mean_field_generation_config.json", temperature=0.0),
    "top_p": with_fields("policy_generation_config.json", top_p=7),
    "max_new_tokens": with_fields("mean_field_generation_config.json", max_new_tokens="x"),
}
ADAPTER_MISFITS = {
    "another rank": with_fields("adapter_config.json", r=8),
    "one role only": with_fields("adapter_config.json", target_modules=r"policy\..*\.(q_proj|down_proj)"),
    "no layer": with_fields("adapter_config.json", target_modules="nothing"),
    "an unknown kind": with_fields("adapter_config.json", peft_type="NOTHING"),
    "a rank in words": with_fields("adapter_config.json", r="8"),
    "no adapter_config.json": lambda folder: (folder / "adapter_config.json").unlink(),
    "a base that is nowhere": with_fields("config.json", policy_base="./nowhere", mean_field_base="./nowhere"),
    "a base that is no base": with_fields("config.json", policy_base="tied", mean_field_base="tied"),
    "a base of another size": with_fields("config.json", policy_base="wide", mean_field_base="wide"),
    "two bases": with_fields("config.json", mean_field_base="wide"),
}


@pytest.mark.trust("checkpoints", "weights, adapters and settings that do not fit each other")
@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused(saved, kind, tries, tmp_path, monkeypatch):
    """With sums as they would be, had it been saved like that."""
    wide = tiny_backbone("qwen3").config.to_dict() | {"hidden_size": 64}
    model = type(tiny_backbone("qwen3"))(type(tiny_backbone("qwen3").config)(**wide))
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("wide")
    shutil.copytree(saved / "tied", "tied")
    for name, spoil in (MISFITS | (ADAPTER_MISFITS if kind == "adapters" else {})).items():
        tries.add()
        folder = shutil.copytree(saved / kind, tmp_path / "spoilt" / name)
        spoil(folder)
        write_checksums(folder, "model")
        with pytest.raises(InputError) as error:
            MFLLMForSimulation.from_pretrained(folder)
        message = str(error.value)
        words = ("must", "may hold", "do not fit", "was not found")
        assert any(word in message for word in words), (name, message)


@pytest.mark.trust("checkpoints", "weights, adapters and settings that do not fit each other")
@pytest.mark.parametrize("kind", KINDS)
def test_pickles_are_not_read(saved, kind, tries, tmp_path):
    folder = shutil.copytree(saved / kind, tmp_path / kind)
    state = load_file(folder / WEIGHTS[kind])
    (folder / WEIGHTS[kind]).unlink()
    for name in ("pytorch_model.bin", "adapter_model.bin", "model.pkl"):
        tries.add()
        torch.save(state, folder / name)
        with pytest.raises(InputError, match=f"must hold .*safetensors, it does not; .*{name}.* can run code"):
            MFLLMForSimulation.from_pretrained(folder)


@pytest.mark.trust("checkpoints", "weights, adapters and settings that do not fit each other")
def test_a_base_that_lacks_weights_is_refused(tmp_path):
    base = save_tiny_backbone(tmp_path, "qwen2")
    with_tensors(lambda tensors: tensors.pop(sorted(tensors)[3]))(base)
    with pytest.raises(InputError, match="are missing"):
        load_backbone(base)
    with_tensors(lambda tensors: tensors.update({sorted(tensors)[3]: torch.ones(3, 2)}))(base)
    with pytest.raises(InputError, match="cannot be loaded as a causal language model"):
        load_backbone(base)


@pytest.mark.trust("checkpoints", "weights, adapters and settings that do not fit each other")
def test_a_training_run_goes_on_with_whole_adapters_only(saved, tmp_path):
    folder = shutil.copytree(saved / "adapters", tmp_path / "adapters")
    model = MFLLMForSimulation.from_pretrained(saved / "adapters")
    load_adapter_weights(model, folder)
    weights = folder / WEIGHTS["adapters"]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors must be the file that was saved"):
        load_adapter_weights(model, folder)


def test_whole_weights_take_the_place_of_adapters(saved, tmp_path):
    """The adapters of before would be loaded instead of them."""
    model = adapted(saved / "base")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.merge().policy.get_input_embeddings().weight.mul_(2)
    model.save_pretrained(tmp_path)
    assert_same_logits(both_logits(MFLLMForSimulation.from_pretrained(tmp_path)), both_logits(model))
