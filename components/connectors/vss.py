"""VL-Mamba's connector: the paper's scans with Mamba-1 inside."""

from __future__ import annotations

from ablate.components.connectors.base import CONNECTORS
from ablate.components.connectors.msc import Merge, MSCBasic, Width
from ablate.components.scans.kernels import Kernel
from ablate.components.scans.order2d import Scan


@CONNECTORS.register("vss")
class VSSConnector(MSCBasic):
    """The vision selective scan of VL-Mamba (section 3.2.3 of the paper names it as kin).

    It is ``msc-basic`` with Mamba-1 as the mixer, so that the two differ in the mixer alone.

    Args:
        scan: the mechanism: ``bsm``, ``csm`` or ``forward``.
        merge: the mean or the sum of the directions.
        width: where the scan runs, see ``msc-basic``.
        share_directions: one mixer for all directions, or one each.
        expand: inner width of the mixer over its width.
        d_state: states of a channel.
        kernel: what filters and scans a sequence, see ``msc-basic``.

    Raises:
        ValueError: an impossible grid or option, see ``msc-basic``.
    """

    def __init__(
        self,
        embed_dim: int,
        grid: tuple[int, int],
        d_model: int,
        *,
        scan: Scan = "bsm",
        merge: Merge = "mean",
        width: Width = "encoder",
        share_directions: bool = True,
        expand: int = 2,
        d_state: int = 16,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__(
            embed_dim,
            grid,
            d_model,
            scan=scan,
            inner="mamba1",
            merge=merge,
            width=width,
            share_directions=share_directions,
            expand=expand,
            d_state=d_state,
            kernel=kernel,
        )
