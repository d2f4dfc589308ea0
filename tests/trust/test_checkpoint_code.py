"""Nothing that comes with a checkpoint is run, and nothing of ours reads what could run."""

import ast
import builtins
import json
from pathlib import Path

import pytest
import yaml

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.backbones import load_backbone, load_tokenizer
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone, tiny_tokenizer
from mf_llm.yaml_files import _strict_loader

pytestmark = pytest.mark.trust("checkpoints", "code that comes with a checkpoint, and pickles")

ROOT = Path(__file__).parents[2]
CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, ProcessorMixin
class Config(LlamaConfig):
    model_type = "{model_type}"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
class Processor(ProcessorMixin):
    pass
"""
AUTO_MAP = {
    "AutoConfig": "code.Config",
    "AutoModel": "code.Model",
    "AutoModelForCausalLM": "code.Model",
    "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"],
    "AutoProcessor": "code.Processor",
}


def test_no_code_of_a_checkpoint_is_run(tmp_path, monkeypatch, tries):
    def consent(*args):
        raise AssertionError("nobody is to be asked whether code may run")

    monkeypatch.setattr(builtins, "input", consent)
    marker = tmp_path / "marker"
    model = MFLLMForSimulation.from_backbones(tiny_backbone("llama"))
    for n, model_type in enumerate(("llama", "never-seen")):
        ours, base = tmp_path / f"ours{n}", save_tiny_backbone(tmp_path / f"base{n}", "llama")
        model.save_pretrained(ours)
        MFLLMProcessor(tiny_tokenizer("llama")).save_pretrained(ours)
        for path in (*ours.rglob("*.json"), *base.rglob("*.json")):
            if path.name == "tokenizer.json":
                continue
            record = json.loads(path.read_text()) | {"auto_map": AUTO_MAP}
            if path.parent == base and path.name == "config.json":
                record["model_type"] = model_type
            if path.name == "config.json" and path.parent == ours:
                for part in ("policy_config", "mean_field_config"):
                    record[part] |= {"auto_map": AUTO_MAP, "model_type": model_type}
            if path.name == "tokenizer_config.json" and model_type != "llama":
                record["tokenizer_class"] = "Tokenizer"
            path.write_text(json.dumps(record))
            code = CODE.format(marker=str(marker), model_type=model_type)
            (path.parent / "code.py").write_text(code)
        for sums in ours.glob("*_checksums.json"):
            sums.unlink()
        for load, folder in (
            (MFLLMForSimulation.from_pretrained, ours),
            (MFLLMProcessor.from_pretrained, ours),
            (load_backbone, base),
            (load_tokenizer, base),
        ):
            tries.add()
            try:
                found = load(folder)
            except (InputError, ValueError, OSError):
                assert model_type != "llama" or load is load_tokenizer
            else:
                assert type(found).__module__.startswith(("transformers.", "mf_llm."))
            assert not marker.exists(), (load, folder)


def _calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func), {word.arg: word.value for word in node.keywords}


def _value(node: ast.AST | None):
    return node.value if isinstance(node, ast.Constant) else None


def test_nothing_of_ours_reads_what_could_run(tries):
    """No pickle, no joblib, no remote code, no objects in YAML: in the package, its scripts and its examples."""
    paths = [path for folder in ("src", "scripts", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 100
    wrong = []
    for path in paths:
        tries.add()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path}: imports {name}" for name in names if name.split(".")[0] in BANNED_MODULES]
        for node, name, words in _calls(path):
            end = name.rsplit(".", 1)[-1]
            unsafe = (
                name in ("torch.load", "eval", "exec", "pd.read_pickle", "pandas.read_pickle", "yaml.unsafe_load")
                or (end == "load" and _value(words.get("allow_pickle")) is True)
                or _value(words.get("trust_remote_code")) is True
                or (name == "yaml.load" and not _is_safe(words.get("Loader")))
                or (end == "from_pretrained" and _value(words.get("use_safetensors")) is False)
            )
            wrong += [f"{path}:{node.lineno}: {name}"] if unsafe else []
    assert not wrong


BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _is_safe(loader: ast.AST | None) -> bool:
    """Whether it is `yaml.SafeLoader`, or the strict one that is made of it."""
    if ast.unparse(loader or ast.Constant(None)) == "_strict_loader()":
        return issubclass(_strict_loader(), yaml.SafeLoader)
    return ast.unparse(loader or ast.Constant(None)) == "yaml.SafeLoader"
