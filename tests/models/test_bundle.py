from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from s2v_ray import storage
from s2v_ray.config import Recipe
from s2v_ray.models.bundle import load_bundle, read_card, save_bundle
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.student import Student
from s2v_ray.storage import ArtifactError
from tests.helpers.recipes import debug_recipe

EMOTIONS = ("neutral", "happy", "angry")


def model(seed: int = 0, r: Recipe | None = None) -> Speech2Video:
    torch.manual_seed(seed)
    made = Speech2Video(r or debug_recipe(), 32, EMOTIONS)
    made.student.emotion_codes.normal_()
    return made


def save(uri: str | Path, seed: int = 0) -> Speech2Video:
    made = model(seed)
    save_bundle(str(uri), made, debug_recipe(), "speech2video", lineage={"student": "abc"}, metrics={"psnr": 31.5})
    return made


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert x.keys() == y.keys()
    assert all(torch.equal(x[k], y[k]) for k in x)


def file_of(uri: Path, start: str) -> Path:
    (found,) = uri.glob(f"{start}-*")
    return found


def test_a_bundle_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    made = save(tmp_path)
    loaded, card = load_bundle(str(tmp_path), "speech2video")
    assert_same(made, loaded)
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert card["identity_dim"] == 32
    assert card["emotions"] == list(EMOTIONS)
    assert card["reference"] is False
    assert card["lineage"] == {"student": "abc"}
    assert card["metrics"] == {"psnr": 31.5}
    assert card["parameters"] == sum(p.numel() for p in made.parameters())
    assert Recipe.model_validate(card["recipe"]) == debug_recipe()


def test_a_student_and_a_reference_bundle(tmp_path: Path) -> None:
    student = model().student
    save_bundle(str(tmp_path / "s"), student, debug_recipe(), "student", {}, {})
    loaded, _ = load_bundle(str(tmp_path / "s"), "student")
    assert isinstance(loaded, Student)
    assert_same(student, loaded)
    r = debug_recipe("gan.generator.reference=true")
    save_bundle(str(tmp_path / "r"), model(r=r), r, "speech2video", {}, {})
    reference, card = load_bundle(str(tmp_path / "r"), "speech2video")
    assert card["reference"] is True and reference.reference is True


def test_the_card_lists_prohibited_uses(tmp_path: Path) -> None:
    save(tmp_path)
    card = read_card(str(tmp_path))
    assert card["notice"].startswith("synthetic")
    assert card["intended_use"] and card["risks"]
    assert any("impersonation" in line for line in card["misuse"])


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [(tmp_path / "b" / n).read_bytes() for n in names]


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    save(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_bundle(str(tmp_path), "speech2video")
    assert torch.equal(torch.rand(3), expected)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a student bundle holds a Student, not a Speech2Video"):
        save_bundle(str(tmp_path / "x"), model(), debug_recipe(), "student", {}, {})
    assert not (tmp_path / "x").exists()


def test_an_unwritable_target_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="^cannot write the bundle .*: (File exists|Not a directory)"):
        save(tmp_path / "file")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: flip(file_of(b, "model"), -1), "the weights of the bundle .* damaged: the SHA-256"),
        (lambda b: flip(file_of(b, "model"), 9), "the weights of the bundle .* damaged: the SHA-256"),
        (
            lambda b: file_of(b, "model").write_bytes(file_of(b, "model").read_bytes()[:-100]),
            "the weights of the bundle .* damaged",
        ),
        (lambda b: flip(file_of(b, "card"), 40), "the card of the bundle .* damaged: the SHA-256"),
        (lambda b: file_of(b, "model").unlink(), "incomplete: its weights model-.* is missing"),
        (lambda b: file_of(b, "card").unlink(), "incomplete: its card card-.* is missing"),
        (lambda b: (b / "manifest.json").unlink(), "there is no bundle at"),
        (lambda b: (b / "manifest.json").write_text('{"kind": '), "manifest.json is damaged"),
        (lambda b: edit(b / "manifest.json", kind="corpus"), "is a corpus, not a bundle"),
        (lambda b: edit(b / "manifest.json", schema=99), "schema 99 of bundle, this version reads 4"),
        (lambda b: edit(b / "manifest.json", card="card.json"), "the manifest or card of the bundle .* is damaged"),
    ],
    ids=lambda x: "" if callable(x) else x[:40],
)
def test_an_unusable_bundle_is_an_error_of_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_bundle(str(tmp_path), "speech2video")
    assert "\n" not in str(caught.value)


def test_a_bundle_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(ArtifactError, match="is a speech2video bundle, a student bundle is needed"):
        load_bundle(str(tmp_path), "student")


def rewrite_card(uri: Path, **fields: Any) -> None:
    """Changes the card and its recorded SHA-256: a complete bundle of another version."""
    card = file_of(uri, "card")
    edit(card, **fields)
    edit(uri / "manifest.json", card={"file": card.name, "sha256": storage.sha256(card.read_bytes())})


def test_weights_that_do_not_fit_the_recipe_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    rewrite_card(tmp_path, recipe=debug_recipe("student.width=16").model_dump(mode="json"))
    with pytest.raises(ArtifactError, match="do not fit its recipe") as caught:
        load_bundle(str(tmp_path), "speech2video")
    assert "\n" not in str(caught.value)


def test_a_recipe_of_another_version_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    rewrite_card(tmp_path, recipe={"optimiser": "lion"})
    with pytest.raises(ArtifactError, match="unknown key 'optimiser'.*another version of s2v_ray"):
        load_bundle(str(tmp_path), "speech2video")


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_save_that_fails_leaves_the_earlier_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    earlier = save(tmp_path, seed=0)
    calls = iter(range(9))
    write = storage.write_bytes

    def full_disk(uri: str, data: bytes) -> None:
        if next(calls) == fails_at:
            raise OSError(28, "No space left on device")
        write(uri, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", full_disk)
        with pytest.raises(ArtifactError, match="cannot write the bundle .*: No space left on device"):
            save(tmp_path, seed=1)
    assert_same(load_bundle(str(tmp_path), "speech2video")[0], earlier)


def test_a_new_bundle_replaces_an_earlier_one(tmp_path: Path) -> None:
    save(tmp_path, seed=0)
    later = save(tmp_path, seed=1)
    assert_same(load_bundle(str(tmp_path), "speech2video")[0], later)
    assert len(list(tmp_path.iterdir())) == 3
    save(tmp_path, seed=1)  # the same again: none of its files is removed
    assert_same(load_bundle(str(tmp_path), "speech2video")[0], later)


def test_a_bundle_on_another_filesystem() -> None:
    made = save("memory://bundles/one")
    assert_same(load_bundle("memory://bundles/one", "speech2video")[0], made)
