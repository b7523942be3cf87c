"""Equivariant optimal transport, which renumbers and rotates noise to lie near its data.

An equivariant net does not distinguish the orders, rotations and positions of a cloud of noise, so
it may be trained on those nearest to the molecule. Source: Klein et al., Equivariant flow
matching (arXiv 2306.15030), as approximated there: first the numbering, then the rotation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reed.chem.geometry import rotation


def transported(noise: Tensor, data: Tensor, mask: Tensor) -> Tensor:
    """Renumber and rotate noise towards data: centred point clouds [B, N, 3], mask [B, N]."""
    return rotated(renumbered(noise, data, mask), data, mask)


def renumbered(noise: Tensor, data: Tensor, mask: Tensor) -> Tensor:
    """Permute the points of the noise so that their squared distances to the data are least."""
    from scipy.optimize import linear_sum_assignment

    costs = torch.cdist(data.float(), noise.float()).square().cpu().numpy()
    order = torch.arange(mask.shape[1]).repeat(len(mask), 1)
    for row, size in enumerate(mask.sum(1).tolist()):
        order[row, :size] = torch.from_numpy(linear_sum_assignment(costs[row, :size, :size])[1])
    return noise.gather(1, order.to(noise.device).unsqueeze(-1).expand_as(noise))


def rotated(noise: Tensor, data: Tensor, mask: Tensor) -> Tensor:
    """Rotate the noise, without mirroring it, as near to the data as possible."""
    weight = mask.unsqueeze(-1).double()
    covariance = (noise * weight).mT @ (data * weight)  # [B, 3, 3]
    turn = torch.from_numpy(rotation(covariance.cpu().numpy())).to(noise.device)
    return (noise.double() @ turn).to(noise.dtype)
