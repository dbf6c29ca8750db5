"""Small models of the architectures whose layers are known."""

from __future__ import annotations

from typing import Any

# Sizes that are no powers of 2; groups of queries; part of a head turning; biases here and there.
_SIZES = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 20}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 52},
    "qwen2": {**_SIZES, "num_key_value_heads": 4, "intermediate_size": 36},
    "phi": {
        **_SIZES,
        "hidden_size": 48,
        "intermediate_size": 52,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "partial_rotary_factor": 0.5,
        },
    },
}
