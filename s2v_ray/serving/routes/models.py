"""The route that lists bundles."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from s2v_ray.models.bundle import read_card
from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import describe_errors

CARD_KEYS = ("emotions", "reference", "notice", "intended_use", "misuse", "risks", "parameters", "sha256")
"""Keys of a bundle's card that are shown."""


def make_router(context: ApiContext) -> APIRouter:
    """The route GET /v1/models."""
    router = APIRouter()

    @router.get("/v1/models", responses=describe_errors(401))
    async def list_models() -> dict[str, Any]:
        """List the bundles (names, emotions, sizes, intended use, misuse) and the limits."""
        return {
            "models": await asyncio.to_thread(_list_models, context),
            "limits": context.limits.model_dump() | {"live": context.service.live_sessions},
            "videos": context.has_videos,
            "study": context.has_study,
        }

    return router


def _list_models(context: ApiContext) -> list[dict[str, Any]]:
    teacher = context.service.teacher
    found = []
    for name, uri in context.settings.uris().items():
        card = read_card(uri, "speech2video")
        faces = card["reference"] or bool(teacher and teacher.dim == card["identity_dim"])
        shown = {key: card[key] for key in CARD_KEYS}
        found.append({"name": name, "size": card["recipe"]["media"]["size"], "faces": faces, **shown})
    return found
