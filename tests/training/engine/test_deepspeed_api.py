"""Files of DeepSpeed are read without running code from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from s2v_ray.training.engine.deepspeed_api import loading_without_pickle


def test_saved_state_with_foreign_code_is_refused(tmp_path: Any) -> None:
    from s2v_ray.training.engine.deepspeed_api import load_without_pickle

    torch.save({"x": nn.Linear(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_without_pickle(str(tmp_path / "x.pt"))


def test_torch_load_is_replaced_within_the_context_only(tmp_path: Any) -> None:
    torch.save({"x": nn.Linear(2, 2)}, tmp_path / "x.pt")
    original = torch.load
    with loading_without_pickle(), pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert torch.load is original
