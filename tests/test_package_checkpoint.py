"""A trained folder becomes part of the package, is found by name without a hub, and is simulated as it was trained."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("peft")

import package_checkpoint  # noqa: E402
from datasets import Dataset  # noqa: E402
from made_transitions import build, made_event  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from mf_llm import IBTuneConfig, IBTuneTrainer, MFLLMForSimulation, MFLLMProcessor, cli, lora_config  # noqa: E402
from mf_llm.models import checkpoints, hub_files, packaged_checkpoints  # noqa: E402
from mf_llm.models.tiny import save_tiny_backbone  # noqa: E402
from mf_llm.simulation import load_rollouts  # noqa: E402
from mf_llm.training.card_data import CardData, base_models_of  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]

NAME, BASE, COMMIT = "mf-llm-tiny", "tester/tiny-base", "a" * 40
PARTS = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "policy_generation_config.json",
    "mean_field_generation_config.json",
    "model_checksums.json",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of Hugging Face whose cache holds the base, and nothing else."""
    home = tmp_path_factory.mktemp("home")
    repository = home / "hub" / f"models--{BASE.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    save_tiny_backbone(repository / "snapshots" / COMMIT, "qwen2")
    return home


@pytest.fixture(scope="module", autouse=True)
def no_hub(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub_files.hub_is_reachable.cache_clear()
        yield
    hub_files.hub_is_reachable.cache_clear()


@pytest.fixture(scope="module")
def trained(no_hub, tmp_path_factory):
    """What a training run left."""
    folder = tmp_path_factory.mktemp("runs") / "ib-tune-tiny"
    args = IBTuneConfig(
        output_dir=str(folder),
        schedule="joint",
        signal="both",
        anchored=True,
        num_signals=2,
        signal_max_tokens=6,
        max_steps=2,
        learning_rate=0.05,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    model = MFLLMForSimulation.from_backbones(BASE, dtype="float32")
    trainer = IBTuneTrainer(
        model,
        args,
        processing_class=MFLLMProcessor.from_backbones(BASE),
        train_dataset=Dataset.from_list(build(made_event("one"), made_event("two"))),
        peft_config=lora_config(model, r=4),
        card=CardData(name="tester/run-7", summary="A test.", base_models=base_models_of(model.config)),
    )
    trainer.train()
    trainer.save_model()
    (folder / "training_log.csv").write_text("step,loss\n")
    return folder


@pytest.fixture(scope="module")
def package(trained, tmp_path_factory):
    """The folder of packaged checkpoints that `NAME` was put into, and the folder of cards."""
    root = tmp_path_factory.mktemp("package")
    where = ["--packaged", str(root / "checkpoints"), "--cards", str(root / "cards")]
    assert package_checkpoint.main([str(trained), NAME, *where]) == 0
    return root


@pytest.fixture
def installed(package, monkeypatch):
    monkeypatch.setattr(checkpoints, "_packaged_folder", lambda: package / "checkpoints")


def logits(model):
    ids = torch.arange(9, 60)[None]
    with torch.no_grad():
        return model.eval()(ids, mean_field_input_ids=ids).to_tuple()


def test_only_what_is_needed_is_packaged(package, trained):
    folder = package / "checkpoints" / NAME
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == PARTS
    assert all(value.dtype == torch.bfloat16 for value in load_file(folder / "adapter_model.safetensors").values())
    assert (folder / "config.json").read_bytes() == (trained / "config.json").read_bytes()
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    config = checkpoints.read_config(folder)
    assert (config["policy_base"], config["policy_revision"]) == (BASE, COMMIT)
    card = (folder / "README.md").read_text()
    assert (package / "cards" / f"{NAME}.md").read_text() == card
    assert f"# {NAME}\n" in card and f"--model {NAME}" in card and f'load_model_and_processor("{NAME}")' in card
    assert "run-7" not in card
    assert [path.name for path in (package / "checkpoints").iterdir()] == [NAME]


def test_it_is_found_by_its_name_without_a_hub(installed, trained):
    assert packaged_checkpoints() == (NAME,)
    expected = MFLLMForSimulation.from_pretrained(trained)
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in expected.named_parameters())
    for name, value in expected.named_parameters():
        if "lora_" in name:
            value.data = value.data.to(torch.bfloat16).to(value.dtype)
    for one, other in zip(logits(MFLLMForSimulation.from_pretrained(NAME)), logits(expected), strict=True):
        assert torch.equal(one, other)
    processor, own = MFLLMProcessor.from_pretrained(NAME), MFLLMProcessor.from_pretrained(trained)
    assert processor.policy_tokenizer is processor.mean_field_tokenizer
    prompts = [one.mean_field_prompt("日本 bridge", None, ["No!"]) for one in (processor, own)]
    assert prompts[0] == prompts[1]


def test_the_command_line_simulates_it_as_it_was_trained(installed, tmp_path, monkeypatch, capsys):
    def call(*options):
        short = ["--max-actions", "56", "--max-new-tokens", "4", "--dtype", "float32"]
        monkeypatch.setattr(sys, "argv", ["mf-llm", "simulate", "bridge-closure", "--model", NAME, *short, *options])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    out = call("--output", str(tmp_path / "run"))
    assert out.startswith(f"As {NAME} was trained: signal both, anchored yes, option_orders 4, signal_max_tokens 6, ")
    (rollout,) = load_rollouts(tmp_path / "run")
    assert rollout.config["signal"] == "both" and rollout.config["anchored"]
    assert rollout.config["resolved"]["signal_max_tokens"] == 6 and rollout.n_failed == 0
    # What is asked for counts more; a calibrated readout is a plain one.
    out = call("--dry-run", "--signal", "statistics", "--signal-max-tokens", "9", "--calibrated")
    assert out.startswith(f"As {NAME} was trained: max_prompt_tokens 1024.\n")
    assert "anchored" not in call("--dry-run", "--plain")
    out = call("--dry-run", "--action", "text")  # without labels there are no shares
    assert out.startswith(f"As {NAME} was trained: signal_max_tokens 6, ")


def test_the_demo_takes_it_where_it_is_installed(package, home, tmp_path):
    code = (
        "import runpy, sys, pathlib\nfrom mf_llm.models import checkpoints\n"
        f"checkpoints._packaged_folder = lambda: pathlib.Path({str(tmp_path / 'checkpoints')!r})\n"
        f"sys.argv = ['demo.py', '--output', {str(tmp_path / 'demo')!r}]\n"
        f"main = runpy.run_path({str(ROOT / 'examples/demo.py')!r})['main']\n"
        "main.__globals__['SAMPLE'] = 20\nmain()\n"
    )
    constant = re.search(r'^CHECKPOINT = "(.+?)"', (ROOT / "examples/demo.py").read_text(), re.MULTILINE)[1]
    shutil.copytree(package / "checkpoints" / NAME, tmp_path / "checkpoints" / constant)
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Loading {constant}" in done.stdout and "not tuned" not in done.stdout
    trained = "signal both, anchored True, option_orders 4, signal_max_tokens 6"
    assert f"Simulated as it was trained: {trained}" in done.stdout
    for rollout in load_rollouts(tmp_path / "demo/survey"):
        assert rollout.config["anchored"] and rollout.config["anchor_prior"] and rollout.config["signal"] == "both"


def test_packaging_again_takes_the_place_of_the_old_one(trained, tmp_path, capsys):
    results = tmp_path / "results.md"
    results.write_text("| data set | value |\n|---|---|\n| made | 0.1 |\n")
    where = ["--packaged", str(tmp_path / "checkpoints"), "--cards", str(tmp_path / "cards")]
    old = tmp_path / "checkpoints" / NAME / "old.txt"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    assert package_checkpoint.main([str(trained), NAME, *where, "--results", str(results)]) == 0
    assert not old.exists()
    card = (tmp_path / "cards" / f"{NAME}.md").read_text()
    assert "## Results\n\n| data set | value |" in card and "Not evaluated yet" not in card and "## Citation" in card
    assert "Rounding to bfloat16 moves" in capsys.readouterr().out


def test_tokenizers_of_its_own_are_kept(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    template = folder / "policy_tokenizer/chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "person"))
    (folder / "processor_checksums.json").unlink()  # what the message says where a change is meant
    target = package_checkpoint.package(folder, NAME, tmp_path / "checkpoints", tmp_path / "cards")
    assert (target / "policy_tokenizer/tokenizer.json").is_file() and (target / "processor_config.json").is_file()
    assert "person" in MFLLMProcessor.from_pretrained(target).policy_tokenizer.chat_template


def _changed(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: _changed(folder, "config.json", f'"{BASE}"', '"tiny/of/mine"'), "`policy_base` of FOLDER"),
        (lambda folder: _changed(folder, "config.json", f'"{COMMIT}"', "null"), "with a revision"),
        (lambda folder: _changed(folder, "config.json", COMMIT, "b" * 40), "was not found"),
        (lambda folder: _changed(folder, "config.json", '"mf_llm"', '"llama"'), "is not one"),
        (lambda folder: _changed(folder, "config.json", '"simulation": {', '"simulation": {"seed": 1,'), "seed"),
        (lambda folder: _changed(folder, "README.md", "A test.", f"See {ROOT}/notes."), "must not tell paths"),
        (lambda folder: (folder / "README.md").write_text("# Mine\n"), "card of a trainer"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "must hold adapter_model.safetensors"),
    ],
)
def test_what_cannot_be_packaged_changes_nothing(trained, tmp_path, capsys, spoil, says):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    spoil(folder)
    where = ["--packaged", str(tmp_path / "checkpoints"), "--cards", str(tmp_path / "cards")]
    assert package_checkpoint.main([str(folder), NAME, *where]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "cards").exists() and not list(tmp_path.glob("checkpoints/*"))


def test_it_must_be_small_and_have_a_plain_name(trained, tmp_path, capsys, monkeypatch):
    where = ["--packaged", str(tmp_path / "checkpoints"), "--cards", str(tmp_path / "cards")]
    assert package_checkpoint.main([str(trained), "Owner/Name", *where]) == 2
    assert "`NAME` must be made of" in capsys.readouterr().err
    monkeypatch.setattr(package_checkpoint, "LARGEST", 10_000)
    assert package_checkpoint.main([str(trained), NAME, *where]) == 2
    assert "must take at most 10,000 bytes" in capsys.readouterr().err
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_wheel_carries_packaged_checkpoints(package, tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    without_caches = shutil.ignore_patterns("__pycache__", "checkpoints")
    shutil.copytree(ROOT / "src/mf_llm", tmp_path / "src/mf_llm", ignore=without_caches)
    shutil.copytree(package / "checkpoints", tmp_path / "src/mf_llm/data/checkpoints")
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"mf_llm/data/checkpoints/{NAME}/{part}" for part in PARTS} <= names
