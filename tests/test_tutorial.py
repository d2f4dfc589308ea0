"""The tutorial notebook runs from its first cell to its last, and shows what it says it shows."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
nbclient = pytest.importorskip("nbclient", reason="needs the extra notebook")

NOTEBOOK = Path(__file__).parents[1] / "examples/tutorial.ipynb"


def test_the_notebook_is_kept_without_results():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """With two seeds and two simulated steps; the packaged model is the one users meet."""
    monkeypatch.setenv("MF_LLM_TUTORIAL_SEEDS", "2")
    monkeypatch.setenv("MF_LLM_TUTORIAL_PEOPLE", "32")
    monkeypatch.setenv("MF_LLM_TUTORIAL_OUTPUT", str(tmp_path))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # the forecast, trajectories, effects and the ranking
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "oppose" in said
    warned = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert warned == []  # nothing that a reader would wonder about
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Official correction" in page
    assert "http" not in "".join(part for part in page.split('"') if part.startswith("http"))
    assert len(list((tmp_path / "run" / "rollouts").iterdir())) == 2
