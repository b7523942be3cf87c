"""Molecules in three dimensions: flow matching of coordinates, atoms, bonds and charges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed import config
from reed.cache.schema import Field
from reed.chem.molecule import ATOMS, BONDS, CHARGES, COORD_SCALE, DEGREE
from reed.domains.base import DOMAINS, Batch, Noised, Warp
from reed.domains.molecule_options import MoleculeOptions
from reed.domains.molecule_picture import drawn
from reed.domains.molecule_sampling import SampleNoise, alike, integrate, numbers_of
from reed.errors import ReedError
from reed.flows import categorical
from reed.flows.categorical import anything, symmetric
from reed.flows.transport import transported
from reed.guides.guide import guides_of
from reed.guides.reading import Reading
from reed.nets.layers import masked_mean
from reed.nets.semla import Semla
from reed.nets.semla_layers import SemlaConfig, centred
from reed.seeding import Draws

SHAPES = {
    "coords": (None, 3),
    "atoms": (None,),
    "charges": (None,),
    "partners": (None, DEGREE),
    "orders": (None, DEGREE),
}


@DOMAINS.register("molecule")
@dataclass(frozen=True)
class MoleculeDomain:
    """SemlaFlow (arXiv 2406.07266), a flow between molecules (t = 0) and noise (t = 1).

    Coordinates follow a straight line between the data and Gaussian noise, which optimal transport
    aligns with the data. Atoms and bonds are random categories with probability t, else the
    data's. Charges are not noised; the net only predicts them. Coordinates and their noise are
    centred, and bonds are symmetric, at all times.

    Attributes:
        coord_noise: Standard deviation of Gaussian noise that is added to noised coordinates.
        coord_scale: Angstroms per unit of the net.
        transport: Whether optimal transport aligns the noise with the data.
        sizes: Numbers of atoms to draw the sizes of samples from; those of the cache by default.
        net_settings: Fields of SemlaConfig.
    """

    roles = tuple(SHAPES)
    losses = ("position", "element", "bond", "charge")
    sampling = MoleculeOptions

    coord_noise: float = 0.2
    coord_scale: float = COORD_SCALE
    transport: bool = True
    sizes: tuple[int, ...] = ()
    net_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.coord_noise >= 0 or not self.coord_scale > 0:
            raise ReedError(
                f"coord_noise is {self.coord_noise} and coord_scale {self.coord_scale}; they must "
                "be at least 0, and above 0"
            )

    def sized(self, lengths: Sequence[int]) -> MoleculeDomain:
        """Return the domain with the numbers of atoms of all samples of its cache."""
        settings = self._settings()
        if max(lengths) >= settings.max_atoms:
            raise ReedError(
                f"a molecule has {max(lengths)} atoms, net_settings.max_atoms is "
                f"{settings.max_atoms}; raise it, or leave out large ones with source.max_atoms"
            )
        return self if self.sizes else replace(self, sizes=tuple(sorted(lengths)))

    def net(self, fields: Mapping[str, Field]) -> Semla:
        """Return the net, whose shape does not depend on the fields."""
        for role, shape in SHAPES.items():
            if fields[role].shape != shape:
                raise ReedError(
                    f"data.{role} is {fields[role].name!r} of shape {fields[role].shape}, "
                    f"it must be {shape}"
                )
        return Semla(self._settings())

    def _settings(self) -> SemlaConfig:
        return config.build(SemlaConfig, self.net_settings, "net_settings")

    def collate(
        self,
        values: Mapping[str, Tensor],
        fields: Mapping[str, Field],
        targets: dict[str, Tensor],
        mask: Tensor | None = None,
    ) -> Batch:
        """Make a batch of centred coordinates in the net's unit, and of categories.

        The categories are those of atoms [B, N], charges [B, N] and bonds [B, N, N].
        """
        atoms = values["atoms"].long()
        if mask is None:
            mask = torch.ones_like(atoms, dtype=torch.bool)
        categories = torch.zeros(max(CHARGES) - min(CHARGES) + 1, dtype=torch.long)
        categories[torch.tensor(CHARGES)] = torch.arange(len(CHARGES))  # negative: from the end
        charges = categories.to(atoms.device)[values["charges"].long() % len(categories)]
        data = {
            "coords": centred(values["coords"] / self.coord_scale, mask),
            "atoms": atoms * mask,
            "charges": charges * mask,
            "bonds": bond_matrix(values["partners"], values["orders"], mask),
        }
        return Batch(data, targets, mask)

    def corrupt(self, batch: Batch, draws: Draws, warp: Warp | None = None) -> Noised:
        """Add noise to molecules.

        The order of draws is time, coordinates, atoms, bonds, coordinate noise, self-conditioning.
        """
        data, mask = batch.data, batch.mask
        assert mask is not None
        size = mask.shape[1]

        # As in SemlaFlow, time s runs the other way: 1 is data.
        s = draws.uniform().sqrt()  # Beta(2, 1), [B]
        drawn = 1 - s
        s = s if warp is None else 1 - warp(drawn)
        prior = centred(draws.normal(size, 3), mask)
        if self.transport:
            prior = transported(prior, data["coords"], mask)

        new_atoms, atom_u = draws.uniform(2, size).unbind(1)
        new_bonds, bond_u = (symmetric(u) for u in draws.uniform(2, size, size).unbind(1))
        coord_noise = self.coord_noise * centred(draws.normal(size, 3), mask)
        mix = s.view(-1, 1, 1)
        inputs = {
            "coords": mix * data["coords"] + (1 - mix) * prior + coord_noise,
            "atoms": categorical.mixed(data["atoms"], anything(new_atoms, len(ATOMS)), s, atom_u),
            "bonds": categorical.mixed(data["bonds"], anything(new_bonds, BONDS), s, bond_u),
            "time": s,
            "mask": mask,
            "twice": draws.uniform() < 0.5,
        }
        return Noised(inputs, 1 - s, data["coords"], drawn)

    def loss(
        self, prediction: dict[str, Tensor], noised: Noised, batch: Batch
    ) -> dict[str, Tensor]:
        """Return the squared error of coordinates and the cross-entropies of the categories.

        Each is [B], in float32: a mean over the atoms of a molecule or over its pairs of atoms,
        without padding. The released code divides the loss of coordinates by the padded size.
        """
        mask = batch.mask
        assert mask is not None
        error = (prediction["coords"].float() - noised.target).square().mean(-1)
        entropies = {
            name: _cross_entropy(prediction[name], batch.data[name])
            for name in ("atoms", "bonds", "charges")
        }
        pairs = (mask[:, :, None] & mask[:, None]).triu(1).flatten(1)
        return {
            "position": masked_mean(error, mask),
            "element": masked_mean(entropies["atoms"], mask),
            "bond": masked_mean(entropies["bonds"].flatten(1), pairs),
            "charge": masked_mean(entropies["charges"], mask),
        }

    @torch.no_grad()
    def generate(
        self, net: nn.Module, fields: Mapping[str, Field], indices: range, options: MoleculeOptions
    ) -> dict[str, np.ndarray]:
        """Draw molecules, padded to the largest possible size.

        As in SemlaFlow, they are the last prediction of the net.

        Returns:
            coords: Angstroms, float32 [B, N, 3].
            atoms: Indices into reed.chem.molecule.ATOMS, int32 [B, N]; 0 for padding.
            charges: Formal charges, int32 [B, N].
            bonds: Kinds of bonds, uint8 [B, N, N].
            z/NAME: Representations of guides, float32 [B, C], if the net has any.
        """
        weight = next(net.parameters())
        samples = [SampleNoise(options.seed, index) for index in indices]
        counts = [options.atoms or sample.pick(self._known_sizes()) for sample in samples]
        largest = options.atoms or max(self._known_sizes())

        # A GPU is slow at small batches, and the representations of guides are those of a batch.
        guides, reading, groups = guides_of(net), None, [list(range(len(counts)))]
        if guides is not None:
            last = 1 - options.times()[-2]
            reading = Reading(guides, options.seed, indices, last, options.z)
        elif weight.device.type == "cpu":
            groups = alike(counts)

        found: dict[str, np.ndarray] = {}
        for rows in groups:
            sizes, length = [counts[row] for row in rows], max(counts[row] for row in rows)
            mask = (torch.arange(length) < torch.tensor(sizes)[:, None]).to(weight.device)
            numbers = numbers_of([samples[row] for row in rows], sizes, weight.device)
            prediction, z = integrate(net, mask, numbers, options, weight.dtype, reading)
            for name, values in _arrays(prediction, mask, largest, self.coord_scale).items():
                whole = np.empty((len(counts), *values.shape[1:]), values.dtype)
                found.setdefault(name, whole)[rows] = values
            found |= z
        return found

    def _known_sizes(self) -> tuple[int, ...]:
        if not self.sizes:
            raise ReedError("how many atoms should samples have? Give domain.sizes, or --atoms")
        return self.sizes

    def picture(self, samples: Mapping[str, Any], fields: Mapping[str, Field]) -> np.ndarray:
        """Draw the molecules in a grid, each seen along its shortest axis."""
        return drawn(samples["coords"], samples["atoms"], samples["bonds"])


def bond_matrix(partners: Tensor, orders: Tensor, mask: Tensor) -> Tensor:
    """Turn lists of bonded atoms into matrices of bonds.

    Args:
        partners: Atoms that each atom is bonded to, [B, N, 8]; -1 for none.
        orders: Kinds of these bonds, [B, N, 8].
        mask: Real atoms are True, [B, N].

    Returns:
        Kinds of bonds, int64 [B, N, N]; 0 for no bond.
    """
    size = partners.shape[1]
    real = (partners >= 0) & mask.unsqueeze(-1)
    columns = torch.where(real, partners.long(), size)  # no bond: an extra column, cut off below
    matrix = torch.zeros(*partners.shape[:2], size + 1, dtype=torch.long, device=partners.device)
    return matrix.scatter_(2, columns, orders.long() * real)[..., :size]


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the cross-entropy of every entry in float32, [..., K], [...] -> [...]."""
    return F.cross_entropy(logits.float().movedim(-1, 1), truth, reduction="none")


def _arrays(
    prediction: dict[str, Tensor], mask: Tensor, largest: int, scale: float
) -> dict[str, np.ndarray]:
    """Turn a prediction into arrays padded to `largest` atoms, with 0 for padding."""
    odds = prediction["atoms"].clone()
    odds[..., :2] = -1  # the first two categories are no elements: padding and the mask
    bonds = prediction["bonds"].argmax(-1)
    size = mask.shape[1]
    diagonal = torch.eye(size, dtype=torch.bool, device=mask.device)
    bonds = bonds * (mask[:, :, None] & mask[:, None] & ~diagonal)
    charges = torch.tensor(CHARGES, device=mask.device)[prediction["charges"].argmax(-1)] * mask
    pad = largest - size
    return {
        "coords": F.pad(prediction["coords"].float() * scale, (0, 0, 0, pad)).cpu().numpy(),
        "atoms": F.pad(odds.argmax(-1) * mask, (0, pad)).int().cpu().numpy(),
        "charges": F.pad(charges, (0, pad)).int().cpu().numpy(),
        "bonds": F.pad(bonds, (0, pad, 0, pad)).to(torch.uint8).cpu().numpy(),
    }
