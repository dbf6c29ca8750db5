"""The scans and the convolution by mamba-ssm's and causal-conv1d's CUDA kernels, or portably.

A mixer's ``kernel`` says which. The kernels compute what the portable functions do, in their
layouts: (B, C, L) for the convolution and Mamba-1's scan. Triton multiplies float32 in TF32. What
trains Mamba-2 in bfloat16 by ``auto`` is our own: ``ssd_fused``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.components.scans import conv, selective
from ablate.components.scans import ssd as ssd_portable

Kernel = Literal["auto", "cuda", "portable"]
"""``auto``: the kernels on a CUDA device that has them; ``cuda``: mamba-ssm's or an error;
``portable``: never. A scan that continues from a state of Mamba-1 is portable in any case: its
kernel cannot."""

# A step size before its softplus that makes it 0, also in float16.
_NO_STEP = -1e4


class KernelError(RuntimeError):
    """The CUDA kernels were demanded and cannot be used here."""


class _Kernels(NamedTuple):
    causal_conv1d: Callable[..., Any]
    selective_scan: Callable[..., Any]
    ssd: Callable[..., Any]
    mamba3_siso: Callable[..., Any]


_computed: set[str] = set()


def computed_by(path: str) -> None:
    """Note by which path a scan is computed."""
    _computed.add(path)


def paths_used() -> str:
    """By which paths scans and convolutions have been computed in this process, sorted."""
    return ", ".join(sorted(_computed))


def known_kernel(kernel: Kernel) -> Kernel:
    """Return ``kernel``.

    Raises:
        ValueError: there is no such choice.
    """
    if kernel not in get_args(Kernel):
        raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(get_args(Kernel))}")
    return kernel


def causal_conv1d_silu(
    x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor | None, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """``conv.causal_conv1d_silu`` by the chosen kernel.

    Raises:
        KernelError: ``kernel`` is "cuda" and cannot be had, or takes no such sizes.
    """
    unfit = ""
    if weight.shape[1] not in (2, 3, 4) or x.shape[2] % 8:
        unfit = (
            f"causal-conv1d filters 2 to 4 positions of a multiple of 8 channels, and here d_conv "
            f"is {weight.shape[1]} and the channels are {x.shape[2]}"
        )
    kernels = _chosen(kernel, x, unfit)
    if kernels is None:
        return conv.causal_conv1d_silu(x, weight, bias, initial)
    # The kernel reads channels-last rows that start at multiples of 8 elements.
    if any(x.stride(dim) % 8 for dim in (0, 1)):
        x = x.clone(memory_format=torch.contiguous_format)
    before = None if initial is None else initial.to(x.dtype).transpose(1, 2)
    filtered = kernels.causal_conv1d(
        x.transpose(1, 2), weight, bias, initial_states=before, activation="silu"
    )
    return filtered.transpose(1, 2), conv.last_inputs(x, initial, weight.shape[1])


def selective_scan(
    x: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    attention_mask: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    kernel: Kernel,
) -> tuple[Tensor, Tensor | None]:
    """``selective.selective_scan`` by the chosen kernel, from step sizes as they are projected.

    Args:
        x: (B, L, D).
        dt: step sizes before their bias and softplus, (B, L, D).
        dt_bias: (D,).
        A: (D, N), negative, float32.
        B: (B, L, N).
        C: (B, L, N).
        D: (D,).
        attention_mask: (B, L), 0 where a position must leave the state alone.
        initial_state: (B, N, D), zeros if None. The kernel has none: with one, the portable
            path is taken.
        return_state: whether the final state is wanted. The kernel gives it no gradient: where
            one is needed, the portable path is taken.
        kernel: the choice.

    Returns:
        y (B, L, D), and the final state (B, N, D) in float32, or None.

    Raises:
        KernelError: ``kernel`` is "cuda" and cannot be had.
    """
    kernels = _chosen(kernel, x)
    differentiable = return_state and torch.is_grad_enabled() and x.requires_grad
    if kernels is None or initial_state is not None or differentiable:
        steps = F.softplus(dt.float() + dt_bias.float())
        if attention_mask is not None:
            steps = steps * attention_mask.unsqueeze(-1).to(steps.dtype)
        return selective.selective_scan(x, steps, A, B, C, D, initial_state)
    if attention_mask is not None:
        dt = dt.masked_fill(attention_mask.unsqueeze(-1) == 0, _NO_STEP)
    y, state = kernels.selective_scan(
        *(v.transpose(1, 2) for v in (x, dt.to(x.dtype))),
        A,
        *(v.to(x.dtype).transpose(1, 2) for v in (B, C)),
        D.float(),
        delta_bias=dt_bias.float(),
        delta_softplus=True,
        return_last_state=True,
    )
    return y.transpose(1, 2), state.transpose(1, 2) if return_state else None


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    initial_state: Tensor | None,
    chunk_size: int,
    return_state: bool,
    kernel: Kernel,
) -> tuple[Tensor, Tensor | None]:
    """``ssd.ssd`` by the chosen kernel.

    Raises:
        KernelError: ``kernel`` is "cuda" and cannot be had.
    """
    kernels = _chosen(kernel, x)
    if kernels is None:
        return ssd_portable.ssd(x, dt, A, B, C, D, initial_state, chunk_size, return_state)
    result = kernels.ssd(
        x,
        dt,
        A,
        B,
        C,
        chunk_size,
        D=D,
        initial_states=initial_state,
        return_final_states=return_state,
    )
    return result if return_state else (result, None)


def mamba3_siso(x: Tensor, states: int, kernel: Kernel) -> Callable[..., Any] | None:
    """mamba-ssm's kernel of all that Mamba-3 does between projections; None for the portable path.

    It computes in bfloat16 whatever it is given, so that ``auto`` leaves other dtypes alone.

    Args:
        x: (B, L, H, P).
        states: of a channel, N.
        kernel: the choice.

    Raises:
        KernelError: ``kernel`` is "cuda" and cannot be had, or takes no such sizes.
    """
    if kernel == "auto" and x.dtype != torch.bfloat16:
        return None
    unfit = ""
    if any(size < 16 or size & (size - 1) for size in (x.shape[-1], states)):
        unfit = (
            "its kernel of Mamba-3 takes powers of two from 16, and here headdim is "
            f"{x.shape[-1]} and d_state is {states}"
        )
    kernels = _chosen(kernel, x, unfit)
    return None if kernels is None else kernels.mamba3_siso


def _chosen(kernel: Kernel, x: Tensor, unfit: str = "") -> _Kernels | None:
    """The CUDA kernels if they are to compute on ``x``, None for the portable path.

    ``unfit`` says why they cannot, if they cannot.
    """
    if x.is_meta:
        return None
    kernels = _usable(kernel, x, unfit)
    computed_by("portable" if kernels is None else "mamba-ssm")
    return kernels


def _usable(kernel: Kernel, x: Tensor, unfit: str) -> _Kernels | None:
    if kernel == "portable":
        return None
    if not x.is_cuda:
        unfit = f"the tensors are on {x.device.type!r}; run on a CUDA device"
    elif x.dtype == torch.float64:
        unfit = "the kernels take no float64; use float32 or less"
    elif not unfit:
        kernels = _load()
        if isinstance(kernels, _Kernels):
            return kernels
        unfit = kernels
    if kernel == "cuda":
        raise KernelError(
            f"kernel 'cuda' cannot be used: {unfit}. Or choose kernel 'auto' or 'portable'"
        )
    return None


def why_missing() -> str:
    """Why mamba-ssm's and causal-conv1d's kernels cannot be imported; "" if they can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _load()
    return found if isinstance(found, str) else ""


# Imported where a CUDA tensor is first met, since mamba-ssm takes seconds.
@functools.cache
def _load() -> _Kernels | str:
    """The kernels, or why there are none; the first call then also warns of it."""
    try:
        from causal_conv1d import causal_conv1d_fn
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
        from mamba_ssm.ops.triton.mamba3.mamba3_siso_combined import mamba3_siso_combined
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError as error:
        missing = (
            f"mamba-ssm and causal-conv1d cannot be imported ({error}); install them by "
            "`pip install 'ablate-vlm[cuda]'`"
        )
        warnings.warn(f"Mamba runs by its slower portable path: {missing}", stacklevel=2)
        return missing
    return _Kernels(
        causal_conv1d_fn, selective_scan_fn, mamba_chunk_scan_combined, mamba3_siso_combined
    )
