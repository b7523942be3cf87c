"""Protein sequences for a given backbone: masked discrete diffusion with a ProteinMPNN-like net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed import config
from reed.cache.schema import Field
from reed.chem.protein import ALPHABET
from reed.config import option
from reed.domains.base import DOMAINS, Batch, Noised, Warp
from reed.domains.protein_guided import GuidedDenoiser
from reed.domains.structure import Structure, collated
from reed.errors import ReedError, at_least
from reed.flows import masked
from reed.guides.guide import guides_of
from reed.guides.reading import Reading
from reed.guides.steer import Steer
from reed.nets import mpnn_public
from reed.nets.layers import is_drawing, masked_mean
from reed.nets.mpnn import LETTERS, MASK, MPNN, SCALE, Encoded, MPNNConfig
from reed.nets.mpnn_drawing import DesignDecoder
from reed.seeding import Draws, seed_for

LOSS_ON = ("all", "masked")
SHAPES = {"coords": (None, 4, 3), "residue": (None,), "number": (None,), "chain": (None,)}


@dataclass(frozen=True)
class DesignOptions:
    """Options of drawing sequences from a trained net.

    Sample i is a sequence for structure i // each. Further samples are for the last structure.

    Attributes:
        structures: The structures to design sequences for.
        each: Sequences for each structure.
        steps: Largest number of steps (see reed.flows.masked.unmask).
        temperature: Softmax temperature of the letters.
        order: Order in which residues are revealed: purity or random.
        z: Guidance on the representations of guides (see reed.guides).
        seed: Seed; sample i depends only on its structure and on (seed, i).
    """

    structures: tuple[Structure, ...] = ()
    each: int = 1
    steps: int = option(500, "Maximum number of steps that reveal residues.")
    temperature: float = option(0.1, "Softmax temperature.")
    order: str = option(
        "purity",
        "Order in which residues are revealed: purity (most certain first) or random.",
        metavar="NAME",
        choices=masked.ORDERS,
    )
    z: Steer = field(default_factory=Steer)
    seed: int = option(0, "Random seed.")

    def __post_init__(self) -> None:
        masked.check_sampling(self.steps, self.temperature, self.order)
        at_least(1, each=self.each)

    @property
    def name(self) -> str:
        """Short form for file names; order and seed only if changed: "steps500-T0.1-seed1"."""
        parts = [f"steps{self.steps}", f"T{self.temperature:g}"]
        parts += [self.order] if self.order != "purity" else []
        parts += [self.z.name] if self.z.name else []
        return "-".join(parts + ([f"seed{self.seed}"] if self.seed else []))


@DOMAINS.register("protein")
@dataclass(frozen=True)
class ProteinDomain:
    """Masked diffusion of sequences: each letter is masked with probability t (t = 0 is data).

    A residue counts, in the loss and in alignment, if it has all backbone atoms and is not X. A
    protein's loss is the mean over the residues that count. The public code of REED also counts
    padding, spreads the smoothed mass over X and the mask too, sums over the batch and divides by
    2,000.

    Attributes:
        backbone_noise: Standard deviation of the noise on every atom in training, in angstroms.
        min_t: Times are uniform in [min_t, 1 - min_t].
        label_smoothing: Share of the target that is spread evenly over the 20 letters.
        loss_on: Residues that count in the loss: all or masked.
        net_settings: Fields of MPNNConfig.
    """

    roles = ("coords", "residue", "number", "chain", "neighbours")
    losses = ("diffusion",)
    sampling = DesignOptions
    asks = "--structure FILE"
    continues = MappingProxyType(
        {
            "backbone_noise": mpnn_public.NOISE,
            "net_settings.neighbours": mpnn_public.NEIGHBOURS,
            "net_settings.masked_neighbours": ("masked_neighbours",),
        }
    )

    backbone_noise: float = 0.1
    min_t: float = 0.01
    label_smoothing: float = 0.1 / 1.1
    loss_on: str = "all"
    net_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(0, backbone_noise=self.backbone_noise)
        if not 0 <= self.min_t < 0.5:
            raise ReedError(f"min_t is {self.min_t}, it must be in [0, 0.5)")
        if not 0 <= self.label_smoothing < 1:
            raise ReedError(f"label_smoothing is {self.label_smoothing}, it must be in [0, 1)")
        if self.loss_on not in LOSS_ON:
            raise ReedError(f"loss_on is {self.loss_on!r}, it must be one of {LOSS_ON}")

    def net(self, fields: Mapping[str, Field]) -> MPNN:
        """Return the net, whose shape does not depend on the fields."""
        for role, shape in SHAPES.items():
            if fields[role].shape != shape:
                raise ReedError(
                    f"data.{role} is {fields[role].name!r} of shape {fields[role].shape}, "
                    f"it must be {shape}"
                )
        return MPNN(self._settings())

    def _settings(self) -> MPNNConfig:
        return config.build(MPNNConfig, self.net_settings, "net_settings")

    def published(self) -> dict[str, Any]:
        """Return settings under the names of ProteinMPNN's training options."""
        shape = self._settings()
        # The public code has the states of the decoder alone.
        own = {"masked_neighbours": shape.masked_neighbours} if shape.keeps_masked else {}
        return own | {
            "hidden_dim": shape.hidden,
            "num_encoder_layers": shape.encoder_layers,
            "num_decoder_layers": shape.decoder_layers,
            "num_neighbors": shape.neighbours,
            "dropout": shape.dropout,
            "backbone_noise": self.backbone_noise,
        }

    def collate(
        self,
        values: Mapping[str, Tensor],
        fields: Mapping[str, Field],
        targets: dict[str, Tensor],
        mask: Tensor | None = None,
    ) -> Batch:
        """Make a batch with finite coordinates.

        "resolved" marks residues with all backbone atoms; the batch's mask marks those that count.
        """
        coords, residue = values["coords"], values["residue"]
        resolved = coords.isfinite().all(-1).all(-1)
        if mask is not None:
            resolved = resolved & mask
        data = {"coords": coords.nan_to_num(0.0, 0.0, 0.0), "resolved": resolved}
        data |= {name: values[name] for name in ("residue", "number", "chain")}
        counts = resolved & (residue < LETTERS)
        return Batch(data, targets, counts, values["neighbours"])

    def corrupt(self, batch: Batch, draws: Draws, warp: Warp | None = None) -> Noised:
        """Mask letters, and add noise to the backbone.

        The order of draws is time, mask, atoms, dropout.
        """
        data, residue = batch.data, batch.data["residue"]
        drawn = self.min_t + (1 - 2 * self.min_t) * draws.uniform()  # [B]
        t = drawn if warp is None else warp(drawn)
        hidden = masked.mask_tokens(residue, t, draws.uniform(residue.shape[1]), MASK)
        noise = self.backbone_noise * draws.normal(*data["coords"].shape[1:])
        seed = (draws.uniform() * 2**24).int()  # of each sample's dropout
        coords = data["coords"] + noise
        graph = {name: data[name] for name in ("resolved", "number", "chain")}
        inputs = {"coords": coords, "residues": hidden, "seed": seed, **graph}
        return Noised(inputs, t, residue, drawn)

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> dict[str, Tensor]:
        """Return the smoothed negative log-likelihood of the letters, [B], in float32."""
        logits = prediction[..., :LETTERS].float().movedim(-1, 1)  # [B, 20, L]
        target = noised.target.clamp(max=LETTERS - 1)  # X does not count, and has no logit
        nll = F.cross_entropy(
            logits, target, reduction="none", label_smoothing=self.label_smoothing
        )
        counts = batch.mask
        assert counts is not None  # collate makes one
        if self.loss_on == "masked":
            counts = counts & (noised.inputs["residues"] == MASK)
        return {"diffusion": masked_mean(nll, counts)}

    @torch.no_grad()
    def generate(
        self, net: nn.Module, fields: Mapping[str, Field], indices: range, options: DesignOptions
    ) -> dict[str, np.ndarray]:
        """Draw sequences: "sequence" and the name of its "structure", text [N].

        A net with guides also gives the representations that were drawn, as "z/NAME".

        The encoder runs once for each structure; only the decoder runs at every step. A residue
        without coordinates keeps its letter.
        """
        if not options.structures:
            raise ReedError("designing needs the structure to design for: --structure FILE")

        last = len(options.structures) - 1
        wanted = [min(index // options.each, last) for index in indices]
        first = wanted[0]
        structures = options.structures[first : wanted[-1] + 1]

        # Structures are encoded once, then their rows repeated: one for each sequence.
        assert isinstance(net, MPNN)
        weight = net.W_e.weight
        device = weight.device
        inputs, residue = collated(structures, device)
        inputs["coords"] = inputs["coords"].to(weight.dtype)
        guides = guides_of(net)
        encoded = net.encode(**inputs, taps=sorted(guides.taps) if guides else ())
        rows = torch.tensor([number - first for number in wanted], device=device)
        encoded, residue = encoded.of(rows), residue[rows]

        u, gumbel = (x.to(device) for x in _numbers(options.seed, indices, residue.shape[1]))
        tokens = torch.where(encoded.resolved, MASK, residue)
        guided = some = None
        if guides is None and is_drawing(weight):
            some = DesignDecoder(net, encoded, MASK, SCALE, LETTERS)
        if guides is not None:
            last = masked.last_times(u, encoded.resolved, options.steps)
            reading = Reading(guides, options.seed, indices, last, options.z)
            guided = GuidedDenoiser(net, encoded, reading)
        filled = masked.unmask(
            denoiser(net, encoded) if guided is None else guided,
            tokens,
            encoded.resolved,
            u,
            gumbel,
            steps=options.steps,
            temperature=options.temperature,
            order=options.order,
            begin=None if guided is None else guided.begin,
            some=some,
        )

        lengths = [len(structures[row].residue) for row in rows.tolist()]
        texts = [spell(row[:n]) for row, n in zip(filled.cpu().numpy(), lengths, strict=True)]
        names = [structures[row].name for row in rows.tolist()]
        drawn = {"sequence": np.array(texts), "structure": np.array(names)}
        return drawn | (guided.reading.result() if guided is not None else {})

    def picture(self, samples: Mapping[str, Any], fields: Mapping[str, Field]) -> np.ndarray:
        """Draw a row per sequence and a grey value per letter; white follows a shorter sequence."""
        texts = samples["sequence"]
        shades = np.full((len(texts), max(map(len, texts)), 1), 255, np.uint8)
        for row, text in enumerate(texts):
            shades[row, : len(text), 0] = [11 * ALPHABET.index(letter) for letter in text]
        return shades.repeat(4, 0).repeat(4, 1)


def denoiser(net: MPNN, encoded: Encoded) -> masked.Denoiser:
    """Return the function from letters [B, L] to logits [B, L, 20] for encoded structures.

    A net with guides sees no representation.
    """
    guides = guides_of(net)
    if guides is None:
        return lambda tokens: net.decode(encoded, tokens)[0][..., :LETTERS]
    extra = guides.nothing(len(encoded.nodes))
    return lambda tokens: net.decode(encoded, tokens, extra=extra)[0][..., :LETTERS]


def spell(residue: np.ndarray) -> str:
    """Return indices into ALPHABET as text."""
    return "".join(ALPHABET[number] for number in residue)


def _numbers(seed: int, indices: range, length: int) -> tuple[Tensor, Tensor]:
    """Draw uniform numbers [N, L] and Gumbel numbers [N, L, 20]; a row depends on (seed, index)."""
    u = torch.empty(len(indices), length, 1 + LETTERS, dtype=torch.float64)
    for row, index in enumerate(indices):
        u[row].uniform_(generator=torch.Generator().manual_seed(seed_for(seed, "design", index)))
    return u[..., 0], -(-u[..., 1:].log()).log()
