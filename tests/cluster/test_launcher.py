"""The configs of Ray's launcher: they come from one source, and Ray accepts them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.gcp.config import get_node_type
from ray.autoscaler._private.util import prepare_config, validate_config

from s2v_ray.cluster.launcher import PROVIDERS, differing, main, render

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
COMMON = ("cluster_name", "upscaling_speed", "head_start_ray_commands", "worker_start_ray_commands")


def config(provider: str) -> dict[str, Any]:
    content = yaml.safe_load((CLUSTER / f"{provider}.yaml").read_text())
    assert isinstance(content, dict)
    return content


def test_the_files_are_those_of_the_source() -> None:
    assert differing(CLUSTER) == []


def test_check_names_a_file_that_was_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0 and main(["--check", str(tmp_path)]) == 0
    (tmp_path / "gcp.yaml").write_text(render("gcp").replace("max_workers: 12", "max_workers: 13"))
    (tmp_path / "aws.yaml").unlink()
    assert main(["--check", str(tmp_path)]) == 1
    assert re.findall(r"(\w+)\.yaml differs", capsys.readouterr().out) == ["aws", "gcp"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ray_accepts_the_config(provider: str) -> None:
    prepared = prepare_config(config(provider))
    validate_config(prepared)
    assert prepared["docker"]["container_name"] == "s2v"


def test_ray_refuses_a_misspelt_key() -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(prepare_config(config("gcp") | {"max_wokers": 1}))


def test_what_all_providers_share() -> None:
    """Commands, image, options and token are the same, except for the autoscaler's version and EC2's notices."""
    aws = config("aws")
    for provider in ("gcp", "onprem"):
        other = config(provider)
        for key in COMMON:
            mine, theirs = [aws[key], other[key]] if isinstance(aws[key], list) else [[aws[key]], [other[key]]]
            theirs = [str(c).replace("autoscaler_v2=0", "autoscaler_v2=1") for c in theirs]
            assert theirs == [str(c) for c in mine if "cluster.spot" not in str(c)]
        for key in ("image", "container_name"):
            assert other["docker"][key] == aws["docker"][key]
        assert other["docker"]["run_options"][:3] == aws["docker"]["run_options"]
        assert aws["file_mounts"].items() <= other["file_mounts"].items()


def test_nodes_of_google_are_machines() -> None:
    """Ray's own classification, which raises for what it does not know; TPUs would be another type."""
    for kind in config("gcp")["available_node_types"].values():
        assert get_node_type(kind["node_config"]).value == "compute"
