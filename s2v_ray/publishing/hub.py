"""Publication of a bundle on the Hugging Face Hub, or on a server with the same HTTP API."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from s2v_ray import storage
from s2v_ray.models.bundle import read_card
from s2v_ray.publishing.cards import bundle_files, write_card

SCHEME = "hf://"


def push_bundle(bundle: str, target: str, evaluation: str = "", *, public: bool = False) -> dict[str, str]:
    """Upload a bundle and its card as one commit.

    The token is read from HF_TOKEN (or the login of huggingface_hub), the server from HF_ENDPOINT. The repository is
    created if there is none.

    Args:
        bundle: URI of the bundle.
        target: ``hf://OWNER/NAME``.
        evaluation: URI of an evaluation of the bundle, for the figures of the card.
        public: whether a new repository is public. An existing one stays as it is.

    Returns:
        ``repository`` (its address), ``commit``, ``sha256`` of the weights.

    Raises:
        ValueError: ``target`` is not such an address, or huggingface_hub is not installed.
        ArtifactError: the bundle or the evaluation cannot be used.
        OSError: the server refuses or cannot be reached.
    """
    name = target.removeprefix(SCHEME).strip("/")
    if not target.startswith(SCHEME) or name.count("/") != 1:
        raise ValueError(f"{target} is not the address of a repository: hf://OWNER/NAME")
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ValueError("`s2v push` needs huggingface_hub: pip install 's2v_ray[hub]'") from None
    card = read_card(bundle)
    write_card(bundle, evaluation)
    files = bundle_files(bundle)
    with tempfile.TemporaryDirectory(prefix="s2v-push-") as folder:
        for file in files:
            (Path(folder) / file).write_bytes(storage.read_bytes(storage.join(bundle, file)))
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))  # the library reads it at import only
        repository = api.create_repo(name, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=f"{card['recipe']['name']} {card['sha256'][:12]}"
        )
    return {"repository": str(repository), "commit": commit.oid, "sha256": card["sha256"]}
