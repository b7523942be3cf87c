"""The descriptors and the networks of ANI potentials.

Source: Smith et al., 2017, Chemical Science 8:3192, equations 2 to 4, with the factors of NeuroChem
(0.25 on radial terms, 0.95 on cosines), which torchani has as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reed.errors import ReedError

if TYPE_CHECKING:
    import torch

SLOPE = 0.1  # alpha of CELU between the layers


@dataclass(frozen=True)
class Terms:
    """The constants of the descriptors of atoms (AEV).

    Attributes:
        radial_cutoff: In angstroms, as all lengths.
        angular_cutoff: Of both neighbours of an atom.
        radial_eta: Sharpness of the radial terms.
        radial_shifts: Distances at which they are centred.
        angular_eta: Sharpness of the angular terms in the mean distance.
        zeta: Sharpness of the angular terms in the angle.
        angular_shifts: Mean distances at which they are centred.
        sections: Angles at which they are centred.
    """

    radial_cutoff: float
    angular_cutoff: float
    radial_eta: float
    radial_shifts: tuple[float, ...]
    angular_eta: float
    zeta: float
    angular_shifts: tuple[float, ...]
    sections: tuple[float, ...]

    def width(self, elements: int) -> int:
        """Return the length of a descriptor for some number of elements."""
        angular = len(self.angular_shifts) * len(self.sections)
        pairs = elements * (elements + 1) // 2
        return elements * len(self.radial_shifts) + pairs * angular


Layer = tuple["torch.Tensor", "torch.Tensor"]  # weight [out, in] and bias [out]
Networks = Mapping[str, Sequence[Layer]]  # by element; the last layer gives the energy


@dataclass(frozen=True)
class Ani:
    """An ensemble of networks.

    Attributes:
        elements: Symbols, in the order of the descriptors.
        terms: Constants of the descriptors.
        members: The networks of each member of the ensemble.
    """

    elements: tuple[str, ...]
    terms: Terms
    members: tuple[Networks, ...]

    def check(self, where: str, hidden: Mapping[str, int]) -> None:
        """Compare the shapes of the layers with one another and with the widths that are stated.

        Args:
            where: The file, for the message.
            hidden: Width of the last hidden layer of each element.

        Raises:
            ReedError: A layer has another shape.
        """
        for number, networks in enumerate(self.members):
            for element in self.elements:
                width = self.terms.width(len(self.elements))
                last = len(networks[element]) - 1
                for place, (weight, bias) in enumerate(networks[element]):
                    out = (
                        weight.shape[0] if place < last - 1 else (hidden[element], 1)[place == last]
                    )
                    if weight.shape != (out, width) or bias.shape != (out,):
                        have = f"{list(weight.shape)}, {list(bias.shape)}"
                        problem = f"layer {place + 1} of {element} in member {number} is {have}"
                        raise ReedError(f"{where}: {problem}, not {[out, width]}, {[out]}")
                    width = out

    def to(self, device: str) -> Ani:
        """Return the ensemble on a device, in float32."""
        members = tuple(
            {
                e: [(w.float().to(device), b.float().to(device)) for w, b in layers]
                for e, layers in each.items()
            }
            for each in self.members
        )
        return Ani(self.elements, self.terms, members)


def descriptors(
    terms: Terms, species: torch.Tensor, coords: torch.Tensor, elements: int
) -> torch.Tensor:
    """Return the descriptor of each atom of one molecule: [N, width].

    Args:
        terms: The constants.
        species: Numbers of the atoms' elements, [N].
        coords: Coordinates in angstroms, [N, 3].
        elements: Number of elements.
    """
    import torch

    vectors = coords[None] - coords[:, None]  # from each atom to every other
    distances = vectors.norm(dim=-1)
    other = ~torch.eye(len(coords), dtype=torch.bool, device=coords.device)
    kinds = torch.nn.functional.one_hot(species, elements).to(coords.dtype)

    # Radial terms: one sum over the neighbours of each element.
    near = other & (distances <= terms.radial_cutoff)
    shifts = distances.new_tensor(terms.radial_shifts)
    radial = 0.25 * torch.exp(-terms.radial_eta * (distances[..., None] - shifts) ** 2)
    radial = radial * (_fade(distances, terms.radial_cutoff) * near)[..., None]
    radial = torch.einsum("ijr,je->ier", radial, kinds).flatten(1)  # [N, elements * shifts]

    near = other & (distances <= terms.angular_cutoff)
    return torch.cat([radial, _angular(terms, species, vectors, near, elements)], 1)


def _fade(distances: torch.Tensor, cutoff: float) -> torch.Tensor:
    return 0.5 * (distances * (math.pi / cutoff)).cos() + 0.5


def _angular(
    terms: Terms, species: torch.Tensor, vectors: torch.Tensor, near: torch.Tensor, elements: int
) -> torch.Tensor:
    """Return the angular part of the descriptors: sums over pairs of neighbours, [N, ...]."""
    import torch

    # All pairs of two neighbours of one atom.
    count = len(species)
    first, second = torch.triu_indices(count, count, 1, device=species.device)
    centre, pair = torch.nonzero(near[:, first] & near[:, second], as_tuple=True)
    first, second = first[pair], second[pair]

    a, b = vectors[centre, first], vectors[centre, second]
    cosines = 0.95 * torch.nn.functional.cosine_similarity(a, b, dim=-1)
    angles, (da, db) = cosines.acos()[:, None, None], (a.norm(dim=-1), b.norm(dim=-1))
    shifts = angles.new_tensor(terms.angular_shifts)[:, None]
    turns = ((1 + (angles - angles.new_tensor(terms.sections)).cos()) / 2) ** terms.zeta
    means = torch.exp(-terms.angular_eta * (((da + db) / 2)[:, None, None] - shifts) ** 2)
    fade = _fade(da, terms.angular_cutoff) * _fade(db, terms.angular_cutoff)
    values = (2 * turns * means * fade[:, None, None]).flatten(1)  # [pairs, shifts * sections]

    # One sum for each unordered pair of elements, in the order of the upper triangle.
    low, high = torch.triu_indices(elements, elements, device=species.device)
    numbers = species.new_zeros(elements, elements)
    numbers[low, high] = numbers[high, low] = torch.arange(len(low), device=species.device)
    rows = centre * len(low) + numbers[species[first], species[second]]
    sums = values.new_zeros(count * len(low), values.shape[1])
    return sums.index_add(0, rows, values).view(count, -1)


def states(ani: Ani, species: torch.Tensor, aev: torch.Tensor, width: int) -> torch.Tensor:
    """Return the last hidden states of all members side by side, [N, members * width].

    Args:
        ani: The ensemble.
        species: Numbers of the atoms' elements, [N].
        aev: Their descriptors.
        width: Channels per member; elements with narrower layers are padded with zeros.
    """
    import torch

    out = aev.new_zeros(len(species), len(ani.members), width)
    for number, element in enumerate(ani.elements):
        rows = (species == number).nonzero().flatten()
        for place, networks in enumerate(ani.members):
            x = aev[rows]
            for weight, bias in networks[element][:-1]:
                x = torch.nn.functional.celu(x @ weight.T + bias, SLOPE)
            out[rows, place, : x.shape[1]] = x
    return out.flatten(1)


def numbers_of(elements: Sequence[str], symbols: Sequence[str]) -> np.ndarray:
    """Return the number of each symbol among the elements, -1 for one that is not among them."""
    places = {element: number for number, element in enumerate(elements)}
    return np.array([places.get(symbol, -1) for symbol in symbols], np.int64)
