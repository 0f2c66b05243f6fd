"""What all sections of a recipe share."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]

Role = Literal["driver", "ingest", "train", "serve"]
ROLE_LABEL = "s2v-role"
"""Label of a cluster's node that names the work it is for, a ``Role``. The manifests in ``cluster/`` set it."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the key and what to do."""


class Section(BaseModel):
    """A section of a recipe: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
