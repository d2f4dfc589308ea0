"""Who imports what, and that the Auto classes know this package; each case in a process of its own."""

import json
import subprocess
import sys

import pytest

from mf_llm.models.tiny import save_tiny_backbone

HEAVY = ("peft", "trl", "evaluate", "matplotlib")
CHECK = """
from mf_llm.models.configuration_mf_llm import MFLLMConfig
from mf_llm.models.modeling_mf_llm import MFLLMForSimulation
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
config = AutoConfig.for_model("mf_llm")
assert type(config) is MFLLMConfig
assert AutoModel._model_mapping[MFLLMConfig] is MFLLMForSimulation
assert PROCESSOR_MAPPING[MFLLMConfig] is MFLLMProcessor
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import mf_llm\nfrom transformers import AutoModel, AutoConfig, AutoProcessor",
        "from transformers import AutoModel, AutoConfig, AutoProcessor\nimport mf_llm",
        "import mf_llm\nfrom transformers import AutoConfig, AutoProcessor, AutoModel",
        "from mf_llm import MFLLMForSimulation\nfrom transformers import AutoModel, AutoConfig",
        "from mf_llm import MFLLMProcessor\nfrom transformers import AutoModel, AutoConfig",
        "import mf_llm.models.registration as r\nr.register_auto_classes()\nr.register_auto_classes()\n"
        "from transformers import AutoModel, AutoConfig",
    ],
)
def test_auto_classes_know_the_package(imports):
    run(imports + CHECK)


@pytest.mark.parametrize("first", ["AutoConfig", "AutoTokenizer"])
def test_auto_config_reads_a_checkpoint_whatever_was_imported_before(first, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mf_llm"}))
    run(
        f"import mf_llm\nfrom transformers import {first}\nfrom transformers import AutoConfig\n"
        f"config = AutoConfig.from_pretrained({str(tmp_path)!r})\nassert type(config).__name__ == 'MFLLMConfig'"
    )


def test_importing_the_package_loads_neither_torch_nor_transformers():
    out = run("import mf_llm, sys\nprint(' '.join(sys.modules))").split()
    roots = {name.split(".")[0] for name in out}
    assert not roots & {"torch", "transformers", "datasets", "pandas", "numpy", "pyarrow", "huggingface_hub", *HEAVY}


def test_registering_loads_nothing_that_the_auto_classes_do_not():
    imports = "from transformers import AutoModel, AutoProcessor"
    code = "{}\nimport sys\nprint(' '.join(sys.modules))"
    without = {name.split(".")[0] for name in run(code.format(imports)).split()}
    with_us = {name.split(".")[0] for name in run(code.format(f"import mf_llm\n{imports}")).split()}
    assert not with_us & set(HEAVY)
    assert with_us - without <= {"mf_llm"}


def test_a_model_runs_without_the_heavy_packages(tmp_path):
    folder = save_tiny_backbone(tmp_path, "llama")
    code = (
        "import sys, torch\nfrom mf_llm.models import load_model\n"
        f"model = load_model({str(folder)!r})\nmodel(torch.tensor([[9, 10]]))\nprint(' '.join(sys.modules))"
    )
    assert not {name.split(".")[0] for name in run(code).split()} & set(HEAVY)
