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
from reed.domains.base import DOMAINS, Batch, Noised
from reed.domains.molecule_options import MoleculeOptions
from reed.domains.molecule_picture import drawn
from reed.errors import ReedError
from reed.flows import categorical
from reed.flows.categorical import anything, symmetric
from reed.flows.transport import transported
from reed.nets.layers import masked_mean
from reed.nets.semla import Semla, SemlaConfig, centred, probable
from reed.seeding import Draws, seed_for

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
    """SemlaFlow (arXiv 2406.07266): from noise (t = 1) to molecules (t = 0).

    Coordinates go straight from Gaussian noise, brought near by optimal transport, to the data; of
    atoms and bonds ever more are the data's; charges are predicted alone. Prior and noise are
    centred, and bonds symmetric, at all times.

    coord_noise: standard deviation of what is added to noised coordinates; coord_scale: angstroms
    per unit of the net; transport: whether noise is brought near; sizes: numbers of atoms that
    samples are drawn from, those of the cache unless given; net_settings: of SemlaConfig.
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
        """The domain that knows how many atoms the samples of its cache have."""
        settings = self._settings()
        if max(lengths) >= settings.max_atoms:
            raise ReedError(
                f"a molecule has {max(lengths)} atoms, net_settings.max_atoms is "
                f"{settings.max_atoms}; raise it, or leave out large ones with source.max_atoms"
            )
        return self if self.sizes else replace(self, sizes=tuple(sorted(lengths)))

    def net(self, fields: Mapping[str, Field]) -> Semla:
        """The net; a molecule's fields do not shape it."""
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
        """Scaled and centred coordinates, and numbers of atoms, bonds [B, N, N] and charges."""
        atoms = values["atoms"].long()
        if mask is None:
            mask = torch.ones_like(atoms, dtype=torch.bool)
        kinds = torch.zeros(max(CHARGES) - min(CHARGES) + 1, dtype=torch.long)
        kinds[torch.tensor(CHARGES)] = torch.arange(len(CHARGES))  # a negative one from the end
        charges = kinds.to(atoms.device)[values["charges"].long() % len(kinds)]
        data = {
            "coords": centred(values["coords"] / self.coord_scale, mask),
            "atoms": atoms * mask,
            "charges": charges * mask,
            "bonds": bond_matrix(values["partners"], values["orders"], mask),
        }
        return Batch(data, targets, mask)

    def corrupt(self, batch: Batch, draws: Draws) -> Noised:
        """Noised molecules; order of draws: time, coordinates, atoms, bonds, noise, second look."""
        data, mask = batch.data, batch.mask
        assert mask is not None
        size = mask.shape[1]
        s = draws.uniform().sqrt()  # Beta(2, 1), [B]; 1 is data
        prior = centred(draws.normal(size, 3), mask)
        if self.transport:
            prior = transported(prior, data["coords"], mask)
        new_atoms, atom_u = draws.uniform(2, size).unbind(1)
        new_bonds, bond_u = (symmetric(u) for u in draws.uniform(2, size, size).unbind(1))
        shaken = self.coord_noise * centred(draws.normal(size, 3), mask)
        mix = s.view(-1, 1, 1)
        inputs = {
            "coords": mix * data["coords"] + (1 - mix) * prior + shaken,
            "atoms": categorical.mixed(data["atoms"], anything(new_atoms, len(ATOMS)), s, atom_u),
            "bonds": categorical.mixed(data["bonds"], anything(new_bonds, BONDS), s, bond_u),
            "time": s,
            "mask": mask,
            "twice": draws.uniform() < 0.5,
        }
        return Noised(inputs, 1 - s, data["coords"])

    def loss(
        self, prediction: dict[str, Tensor], noised: Noised, batch: Batch
    ) -> dict[str, Tensor]:
        """Squared error of coordinates and cross-entropies of the rest, each [B], in float32.

        Every one is a mean over the atoms of a molecule, or its pairs of atoms, whatever the
        padding; the released code divides that of coordinates by the padded size.
        """
        mask = batch.mask
        assert mask is not None
        error = (prediction["coords"].float() - noised.target).square().mean(-1)
        off = {n: _surprise(prediction[n], batch.data[n]) for n in ("atoms", "bonds", "charges")}
        pairs = (mask[:, :, None] & mask[:, None]).triu(1).flatten(1)
        return {
            "position": masked_mean(error, mask),
            "element": masked_mean(off["atoms"], mask),
            "bond": masked_mean(off["bonds"].flatten(1), pairs),
            "charge": masked_mean(off["charges"], mask),
        }

    @torch.no_grad()
    def generate(
        self, net: nn.Module, fields: Mapping[str, Field], indices: range, options: MoleculeOptions
    ) -> dict[str, np.ndarray]:
        """Molecules number `indices`, padded to the largest there can be.

        coords: angstroms, float32 [B, N, 3]; atoms: places in reed.chem.molecule.ATOMS, 0 behind
        the last, and charges, int32 [B, N]; bonds: kinds, uint8 [B, N, N]. They are the last
        prediction of the net, as in SemlaFlow.
        """
        weight = next(net.parameters())
        places = [_Place(options.seed, index) for index in indices]
        counts = [options.atoms or place.pick(self._known_sizes()) for place in places]
        widest = options.atoms or max(self._known_sizes())
        mask = torch.arange(widest) < torch.tensor(counts)[:, None]
        mask, length = mask[:, : max(counts)].to(weight.device), max(counts)

        def numbers(what: str, *shape: int) -> Tensor:
            """Of each molecule its own: [B, *shape of it, padded]."""
            rows = torch.zeros(len(counts), *[length if n == 0 else n for n in shape])
            for row, (place, count) in enumerate(zip(places, counts, strict=True)):
                own = place.draw(what, *[count if n == 0 else n for n in shape])
                rows[(row, *map(slice, own.shape))] = own
            return rows.to(weight.device)

        found = self._integrate(net, mask, numbers, options, weight.dtype)
        return _arrays(found, mask, widest, self.coord_scale)

    def _integrate(
        self,
        net: nn.Module,
        mask: Tensor,
        numbers: Any,
        options: MoleculeOptions,
        dtype: torch.dtype,
    ) -> dict[str, Tensor]:
        """The last prediction of the net, with probabilities."""
        x = centred(numbers("normal", 0, 3).to(dtype), mask)
        atoms = anything(numbers("atoms", 0), len(ATOMS)) * mask
        bonds = anything(symmetric(numbers("bonds", 0, 0)), BONDS)
        past, times = None, options.times()
        for number, (s, after) in enumerate(zip(times[:-1], times[1:], strict=True)):
            time = torch.full((len(mask),), s, dtype=dtype, device=mask.device)
            past = probable(net(x, atoms, bonds, time, mask, past)[0])
            x = x + (past["coords"] - x) * ((after - s) / (1 - s))
            at = (s, after - s, options.noise)
            atoms = categorical.stepped(atoms, past["atoms"], *at, numbers(f"atoms{number}", 0))
            u = symmetric(numbers(f"bonds{number}", 0, 0))
            bonds = categorical.stepped(bonds, past["bonds"], *at, u)
        assert past is not None
        return past

    def _known_sizes(self) -> tuple[int, ...]:
        if not self.sizes:
            raise ReedError("how many atoms should samples have? Give domain.sizes, or --atoms")
        return self.sizes

    def picture(self, samples: Mapping[str, Any], fields: Mapping[str, Field]) -> np.ndarray:
        """The molecules in a grid, seen from the side on which they are flattest."""
        return drawn(samples["coords"], samples["atoms"], samples["bonds"])


def bond_matrix(partners: Tensor, orders: Tensor, mask: Tensor) -> Tensor:
    """Lists of neighbours [B, N, 8] as a matrix of kinds [B, N, N], int64."""
    size = partners.shape[1]
    there = (partners >= 0) & mask.unsqueeze(-1)
    place = torch.where(there, partners.long(), size)  # a column beside the matrix
    matrix = torch.zeros(*partners.shape[:2], size + 1, dtype=torch.long, device=partners.device)
    return matrix.scatter_(2, place, orders.long() * there)[..., :size]


def _surprise(logits: Tensor, truth: Tensor) -> Tensor:
    """The cross-entropy of every entry, in float32: [..., K], [...] -> [...]."""
    return F.cross_entropy(logits.float().movedim(-1, 1), truth, reduction="none")


def _arrays(
    found: dict[str, Tensor], mask: Tensor, widest: int, scale: float
) -> dict[str, np.ndarray]:
    """A prediction as plain arrays padded to one length; padding and masked kinds are no atoms."""
    odds = found["atoms"].clone()
    odds[..., :2] = -1  # what is generated is an element
    bonds = found["bonds"].argmax(-1)
    size = mask.shape[1]
    own = torch.eye(size, dtype=torch.bool, device=mask.device)
    bonds = bonds * (mask[:, :, None] & mask[:, None] & ~own)
    charges = torch.tensor(CHARGES, device=mask.device)[found["charges"].argmax(-1)] * mask
    pad = widest - size
    return {
        "coords": F.pad(found["coords"].float() * scale, (0, 0, 0, pad)).cpu().numpy(),
        "atoms": F.pad(odds.argmax(-1) * mask, (0, pad)).int().cpu().numpy(),
        "charges": F.pad(charges, (0, pad)).int().cpu().numpy(),
        "bonds": F.pad(bonds, (0, pad, 0, pad)).to(torch.uint8).cpu().numpy(),
    }


@dataclass(frozen=True)
class _Place:
    """The random numbers of sample `index`: a function of (seed, index) alone."""

    seed: int
    index: int

    def pick(self, sizes: Sequence[int]) -> int:
        """One of some numbers of atoms."""
        return sizes[seed_for(self.seed, "size", self.index) % len(sizes)]

    def draw(self, what: str, *shape: int) -> Tensor:
        """Uniform numbers, or standard normal ones where `what` is "normal"."""
        seed = seed_for(self.seed, "molecule", self.index, what)
        draw = torch.randn if what == "normal" else torch.rand
        return draw(shape, generator=torch.Generator().manual_seed(seed))
