"""A sampler's state as text, for Cobaya's checkpoint file."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import torch
from safetensors.torch import load, save


def to_text(state: Mapping) -> dict:
    """A state of tensors and plain values as plain values only; tensors lose nothing."""
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in state.items() if name not in tensors}
    return {"values": plain, "tensors": base64.b64encode(save(tensors)).decode("ascii")}


def from_text(text: Mapping) -> dict:
    """The inverse of :func:`to_text`.

    Raises
    ------
    ValueError
        Not such a text.
    """
    try:
        return {**text["values"], **load(base64.b64decode(text["tensors"], validate=True))}
    except Exception as error:
        raise ValueError(f"The state of the sampler cannot be read: {error}") from error
