"""Uni-Mol v1 as a teacher of molecules: per atom, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reed import weights as files
from reed.build.shard import Values
from reed.cache.schema import Field
from reed.chem.molecule import ATOMS
from reed.encoders import ENCODERS
from reed.encoders.base import PublicWeights
from reed.encoders.molecule.molecule import READS, check_coords, molecule_of
from reed.encoders.molecule.unimol_net import Size, collate, forward, shapes
from reed.errors import ReedError
from reed.weights import Origin

ORIGIN = Origin(repo="dptech/Uni-Mol-Models", files=("mol_pre_all_h_220816.pt",))


@ENCODERS.register("unimol")
@dataclass
class UniMol(PublicWeights):
    """What Uni-Mol says of a conformer with all its hydrogens.

    token: [N, dim], of each atom; sample: [dim], their mean: neither padding nor the tokens before
    and behind the atoms are in it, which the public code of REED averages too. Neither changes
    when the molecule is turned or moved.

    weights: a released mol_pre_*_220816.pt, or its tensors as safetensors; dim: its width; coords:
    the place of the coordinates, such as conformer/coords.
    """

    weights: str | None = None
    dim: int = 512
    coords: str = "molecule/coords"
    batch_size: int = 16

    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    name = "unimol"
    licence = "MIT"
    origin = ORIGIN

    def __post_init__(self) -> None:
        check_coords("unimol", self.coords)

    @property
    def reads(self) -> tuple[str, ...]:
        """The molecule, and its coordinates."""
        return tuple(dict.fromkeys((self.coords, *READS)))

    @property
    def fields(self) -> tuple[Field, ...]:
        """Per molecule and per atom."""
        return (
            Field("sample", "sample", (self.dim,), "float32"),
            Field("token", "token", (None, self.dim), "int8"),
        )

    def revision(self) -> str:
        """The weights, and a number to raise when the computation changes."""
        return f"{self._find().sha256[:16]} 1 fp32"

    def load(self, device: str) -> None:
        """The weights; ReedError that lists what is missing or of another shape."""
        path = self._find().files[0]
        state = files.read(path)
        state = next((state[k] for k in ("model", "model_state_dict") if k in state), state)
        needed = ("encoder.layers.0.fc1.weight", "gbf_proj.linear2.weight")
        if not isinstance(state, Mapping) or any(key not in state for key in needed):
            raise ReedError(f"{path} is no Uni-Mol: it lacks {' or '.join(needed)}")
        want = shapes(size := Size.of(state))
        files.compare(str(path), want, {key: state[key] for key in want if key in state})
        if size.width != self.dim:
            problem = f"{path} has {size.width} channels, unimol.dim is {self.dim}"
            raise ReedError(f"{problem}; set dim={size.width}")
        self._state = {key: state[key].float().to(device) for key in want}
        self._device = device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """sample [dim] and token [N, dim] of each molecule, float32."""
        import torch

        given = [molecule_of(sample, self.coords) for sample in samples]
        symbols = [[ATOMS[number] for number in each.atoms.tolist()] for each in given]
        tokens, coords = collate([(s, m.coords) for s, m in zip(symbols, given, strict=True)])
        with torch.no_grad():
            states = forward(self._state, tokens.to(self._device), coords.to(self._device))
        found = states.cpu().numpy()
        rows = [found[row, 1 : 1 + len(each)].copy() for row, each in enumerate(given)]
        return {"token": rows, "sample": [row.mean(0) for row in rows]}
