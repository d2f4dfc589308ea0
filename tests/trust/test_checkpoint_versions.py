"""Checkpoints of earlier versions load to what they answered then."""

import json
from pathlib import Path

import pytest
import torch
from make_checkpoints import KINDS, TEXT, answers

from mf_llm import MFLLMForSimulation, MFLLMProcessor

pytest.importorskip("peft")
FOLDERS = sorted(path for path in (Path(__file__).parents[1] / "data/checkpoints").iterdir() if path.is_dir())

pytestmark = [
    pytest.mark.trust("checkpoints", "checkpoints of earlier versions"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
]


@pytest.mark.parametrize("version", FOLDERS, ids=lambda folder: folder.name)
def test_they_answer_as_they_did(version, tries, monkeypatch, tmp_path):
    monkeypatch.chdir(version)  # where the base of the adapters is
    expected = json.loads(Path("expected.json").read_text())
    for kind in KINDS:
        tries.add()
        model = MFLLMForSimulation.from_pretrained(kind, dtype=torch.float32)
        assert model.config.tie_backbones is (kind != "untied")
        for role, logits in answers(model).items():
            torch.testing.assert_close(torch.tensor(logits), torch.tensor(expected[kind][role]), atol=1e-4, rtol=1e-4)
        # What is saved now answers alike.
        model.save_pretrained(tmp_path / kind)
        again = answers(MFLLMForSimulation.from_pretrained(tmp_path / kind, dtype=torch.float32))
        assert again == answers(model)
    assert MFLLMForSimulation.from_pretrained("adapters").config.simulation == {
        "signal": "both",
        "signal_max_tokens": 48,
    }
    processor = MFLLMProcessor.from_pretrained("tied")
    assert processor.policy_tokenizer(TEXT).input_ids == expected["tokens"]


def test_nothing_of_the_machine_they_were_made_on_is_in_them():
    text = "".join(path.read_text() for folder in FOLDERS for path in folder.rglob("*.json"))
    assert not any(word in text for word in ("/home/", "/tmp/", "/work/", "/root/"))
    assert sum(p.stat().st_size for f in FOLDERS for p in f.rglob("*") if p.is_file()) < 10**6
