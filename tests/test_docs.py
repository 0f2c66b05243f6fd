"""The documentation: tables come from data files, the README is short, reference pages name every key and command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers.results import as_table, write_result

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.fixture(scope="module")
def render() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs" / "render.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(**changes: Any) -> dict[str, Any]:
    keys = dict.fromkeys(("title", "command", "commit", "machine", "date"), "x")
    return {**keys, "columns": ["a", "b"], "rows": [["one", 2.5], [None, "3|4"]], **changes}


def test_tables_equal_their_data_files(render: ModuleType) -> None:
    stale = [page.name for page in render.pages() if render.rendered(page.read_text()) != page.read_text()]
    assert not stale, "run python docs/render.py"


def test_every_data_file_is_shown(render: ModuleType) -> None:
    shown = {name for page in render.pages() for _, name, _ in render.BLOCK.findall(page.read_text())}
    assert shown == {path.stem for path in RESULTS}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_data_files_state_their_origin(render: ModuleType, path: Path) -> None:
    found = render.read_result(path.stem)
    assert all(found[key] for key in render.KEYS)


def test_a_table_with_its_origin(render: ModuleType) -> None:
    lines = render.table(result()).strip().splitlines()
    assert lines[:4] == ["| a | b |", "|---|---|", "| one | 2.5 |", "|  | 3\\|4 |"]
    assert lines[-1] == "*x. `x`, x, x, commit x.*"


def test_check_fails_on_a_changed_number(
    render: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text(json.dumps(result()))
    (tmp_path / "README.md").write_text("<!-- result: t -->\n<!-- end -->\n")
    for name, value in (("RESULTS", tmp_path), ("ROOT", tmp_path), ("DOCS", tmp_path / "docs")):
        monkeypatch.setattr(render, name, value)
    monkeypatch.setattr("sys.argv", ["render.py"])
    assert render.main() == 0
    monkeypatch.setattr("sys.argv", ["render.py", "--check"])
    assert render.main() == 0
    (tmp_path / "t.json").write_text(json.dumps(result(rows=[["one", 2.6]])))
    assert render.main() == 1
    assert "README.md: differs from its data" in capsys.readouterr().out


def test_a_data_file_without_its_command_is_an_error(
    render: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = result()
    del broken["command"]
    (tmp_path / "t.json").write_text(json.dumps(broken))
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="t.json: missing command"):
        render.read_result("t")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_reference_pages_name_every_key_command_and_route(render: ModuleType) -> None:
    recipe, commands, http = render.recipe_page(), render.cli_page(), render.http_page()
    assert "| `gan.mouth` | `float`" in recipe
    assert "| `objectives` |" in render.space_page()
    assert "## s2v train\n" in commands
    assert "`--student`" in commands
    assert "## POST /v1/videos" in http
    assert "| `speech` | body |" in http
    assert "/v1/videos/{video_id}" in http


def test_what_a_benchmark_writes_is_a_table(
    render: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(ROOT / "tests" / "bench" / "bench_step.py"), "--json", "x.json", "--steps", "3"]
    write_result(tmp_path / "step.json", {"side": {"speed": 1.5, "rounds": [1, 2]}, "steps": 3}, command)
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    found = render.read_result("step")
    assert found["command"] == "python -m tests.bench.bench_step --steps 3"
    assert found["columns"] == ["figure", "value"]
    assert found["rows"] == [["side.speed", 1.5], ["side.rounds", "1, 2"], ["steps", 3]]


def test_records_of_a_benchmark_are_rows() -> None:
    columns, rows = as_table([{"seed": 0, "ratio": 1.5}, {"seed": 1, "ratio": 2.0, "late": True}])
    assert columns == ["seed", "ratio", "late"]
    assert rows == [[0, 1.5, None], [1, 2.0, True]]
