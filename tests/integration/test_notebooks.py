"""The notebooks run from top to bottom, one after the other, with the recipe that they name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2v_ray import shards, storage
from s2v_ray.media.video import read_video
from s2v_ray.tuning.trials import open_sweep

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CELL_SECONDS = 600


def test_there_are_five() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs_and_with_one_cell_to_change(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    sources = ["".join(cell["source"]) for cell in code]
    assert sources[0].startswith('WORK = "work"') and 'RECIPE = "debug"' in sources[0]
    assert not any('"work' in source or "s3://" in source for source in sources[1:])


@pytest.mark.minutes
@pytest.mark.cluster
def test_the_notebooks_run(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    work = tmp_path / "work"
    rejects = shards.read_shard(str(work / "corpus" / "rejects.parquet"))
    assert {row["source"]: row["reason"] for row in rejects} == {
        "odd/broken.mp4": "unreadable",
        "odd/silent.mp4": "no_sound",
        "odd/faceless.mp4": "no_face",
    }
    assert len(open_sweep(str(work / "sweep")).trials()) == 3
    assert storage.exists(str(work / "evaluation" / "report.html"))
    video = read_video(str(work / "out.mp4"))
    assert len(video.frames) > 10 and abs(video.speech).max() > 0.01
