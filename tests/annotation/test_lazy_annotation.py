"""Importing the package of annotators is cheap; every public name is there."""

import subprocess
import sys

import mf_llm.annotation


def test_every_public_name_can_be_imported():
    for name in mf_llm.annotation.__all__:
        assert getattr(mf_llm.annotation, name).__name__ == name


def test_dimensions_and_the_rule_load_nothing_heavy():
    code = (
        "import sys\nfrom mf_llm.annotation import RuleAnnotator, load_dimensions\n"
        "RuleAnnotator().annotate(['x'], 't', load_dimensions('zh')['behaviour'])\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'rich', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
