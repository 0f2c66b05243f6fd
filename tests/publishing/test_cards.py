"""Model cards and data cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from s2v_ray import storage
from s2v_ray.evaluation.results import EVALUATION_SCHEMA
from s2v_ray.models.bundle import MISUSE, NOTICE, read_card, save_bundle
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.publishing.cards import data_card, model_card, write_card
from tests.helpers.bundles import make_bundle
from tests.helpers.recipes import debug_recipe
from tests.helpers.tiny_corpus import make_corpus

DATA: dict[str, Any] = {
    "layout": "grid",
    "licence": "CC BY 4.0",
    "size": 32,
    "speakers": 3,
    "emotions": [],
    "splits": {"train": {"clips": 5, "frames": 1200}, "test": {"clips": 2}},
    "rejects": {},
    "teachers": {"identity": {"title": "FaceNet", "licence": "", "source": "https://example.org"}},
}
VALUE = {"mean": 0.98765, "low": 0.95, "high": 1.0, "clips": 2}
RESULTS: Any = {
    "schema": EVALUATION_SCHEMA,
    "clips": 2,
    "speakers": 1,
    "split": "test",
    "metrics": {
        "csim": {"name": "CSIM", "better": "higher", "unit": "", "digits": 3, "about": ""},
        "psnr": {"name": "PSNR", "better": "higher", "unit": "dB", "digits": 1, "about": ""},
        "blinks": {"name": "blinks", "better": "real", "unit": "", "digits": 1, "about": ""},
    },
    "rows": {
        "real clips": {"values": {"csim": VALUE}},
        "speech only": {"values": {"csim": VALUE, "psnr": {**VALUE, "mean": 20.44, "low": 19.0, "high": 21.96}}},
        "mean frame": {"values": {"blinks": VALUE}},
    },
}


def card_of(tmp_path: Path, data: dict[str, Any] | None = None) -> dict[str, Any]:
    recipe = debug_recipe()
    model = Speech2Video(recipe, 16, ("neutral",))
    save_bundle(str(tmp_path), model, recipe, "speech2video", {"corpus": "abc"}, {}, data)
    return read_card(str(tmp_path))


def rows_of(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its separator."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_a_model_card_states_data_licences_use_and_lineage(tmp_path: Path) -> None:
    card = card_of(tmp_path, DATA)
    text = model_card(card)
    assert NOTICE.capitalize() in text
    assert all(f"- {line}" in text for line in MISUSE)
    assert "- identity: FaceNet. Licence: not stated (https://example.org)." in text
    assert ["licence of the source", "CC BY 4.0"] in rows_of(text, "Training data")
    assert ["split train", "5 clips, 1,200 frames"] in rows_of(text, "Training data")
    assert ["split test", "2 clips"] in rows_of(text, "Training data")
    assert "Not evaluated." in text
    assert card["sha256"] in text
    assert json.loads(text.split("```json\n")[1].split("```")[0]) == {"corpus": "abc"}


def test_figures_have_means_and_intervals_of_the_compared_rows(tmp_path: Path) -> None:
    text = model_card(card_of(tmp_path), RESULTS)
    assert "2 clips of 1 speaker, split `test`" in text
    assert rows_of(text, "Figures") == [
        ["metric", "real clips", "speech only"],
        ["CSIM", "0.988 [0.950, 1.000]", "0.988 [0.950, 1.000]"],
        ["PSNR (dB)", "", "20.4 [19.0, 22.0]"],
    ]
    assert "Not stated in this bundle." in text


def test_the_metadata_is_what_hubs_read(tmp_path: Path) -> None:
    card = ModelCard(model_card(card_of(tmp_path / "b", DATA)))
    assert card.data.library_name == "s2v_ray"
    assert "synthetic-media" in card.data.tags
    assert DatasetCard(data_card(make_corpus(str(tmp_path / "c")))).data.license == "other"


def test_a_data_card_counts_clips_and_rejects(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path))
    manifest = storage.read_json(storage.join(corpus, "manifest.json"))
    manifest |= {"rejects": {"no_face": 3}, "licence": "CC0", "settings": {"media.size": 32}}
    storage.write_json(storage.join(corpus, "manifest.json"), manifest)
    text = data_card(corpus)
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    assert "- no_face: 3" in text
    assert "| licence of the source | CC0 |" in text
    assert "| split train | 40 clips |" in text


def test_a_card_is_written_into_the_folder(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert Path(write_card(bundle)).read_text() == model_card(read_card(bundle))
    corpus = make_corpus(str(tmp_path / "corpus"))
    assert Path(write_card(corpus)).read_text() == data_card(corpus)


def evaluation(folder: Path, bundle_digest: str, schema: int = EVALUATION_SCHEMA) -> str:
    storage.write_manifest(
        str(folder), "evaluation", EVALUATION_SCHEMA, config_digest="", parents={"bundle": bundle_digest}
    )
    storage.write_json(str(folder / "results.json"), RESULTS | {"schema": schema})
    return str(folder)


def test_only_an_evaluation_of_the_same_bundle_is_accepted(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    sha = read_card(bundle)["sha256"]
    assert "PSNR (dB)" in Path(write_card(bundle, evaluation(tmp_path / "e", sha[:16]))).read_text()
    with pytest.raises(storage.ArtifactError, match="of another bundle"):
        write_card(bundle, evaluation(tmp_path / "other", "0" * 16))
    with pytest.raises(storage.ArtifactError, match="schema 1"):
        write_card(bundle, evaluation(tmp_path / "old", sha[:16], schema=1))
    with pytest.raises(ValueError, match="belongs to a bundle"):
        write_card(make_corpus(str(tmp_path / "corpus")), str(tmp_path / "e"))
    with pytest.raises(storage.ArtifactError, match="neither a bundle nor a corpus"):
        write_card(str(tmp_path / "e"))
    with pytest.raises(storage.ArtifactError, match="neither a bundle nor a corpus"):
        write_card(str(tmp_path / "nothing"))
