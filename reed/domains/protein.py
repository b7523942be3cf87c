"""Protein sequences for a given backbone: masked discrete diffusion with a ProteinMPNN-like net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reed import config
from reed.cache.schema import Field
from reed.chem.protein import ALPHABET
from reed.config import option
from reed.domains.base import DOMAINS, Batch, Noised
from reed.errors import ReedError, at_least
from reed.flows import masked
from reed.nets.layers import masked_mean
from reed.nets.mpnn import LETTERS, MASK, MPNN, Encoded, MPNNConfig
from reed.seeding import Draws, seed_for

LOSS_ON = ("all", "masked")
SHAPES = {"coords": (None, 4, 3), "residue": (None,), "number": (None,), "chain": (None,)}


@dataclass(frozen=True)
class Structure:
    """One backbone, with the sequence it has.

    coords: [L, 4, 3] float32 (N, CA, C, O) in A, NaN where an atom is missing; residue: [L] in
    ALPHABET; number: [L], the place along the chain; chain: [L].
    """

    name: str
    coords: np.ndarray
    residue: np.ndarray
    number: np.ndarray
    chain: np.ndarray

    @property
    def resolved(self) -> np.ndarray:
        """[L], True where all four atoms are there."""
        return np.asarray(np.isfinite(self.coords).all((1, 2)))

    @property
    def counts(self) -> np.ndarray:
        """[L], True where there is something to recover: resolved, and not X."""
        return self.resolved & (self.residue < LETTERS)


@dataclass(frozen=True)
class DesignOptions:
    """How sequences are drawn from a trained net: `each` for every structure, in their order.

    steps, temperature, order: see reed.flows.masked.unmask; seed: sample i is a function of the
    structure and of (seed, i) alone. Samples beyond the last are more of the last structure.
    """

    structures: tuple[Structure, ...] = ()
    each: int = 1
    steps: int = option(500, "Maximum number of steps that reveal residues.")
    temperature: float = option(0.1, "Softmax temperature.")
    order: str = option(
        "purity",
        "Order in which residues are revealed: purity (most certain first) or random.",
        metavar="NAME",
    )
    seed: int = option(0, "Random seed.")

    def __post_init__(self) -> None:
        masked.check_sampling(self.steps, self.temperature, self.order)
        at_least(1, each=self.each)

    @property
    def name(self) -> str:
        """The options in short, those at their defaults left out: "steps500-T0.1-seed1"."""
        parts = [f"steps{self.steps}", f"T{self.temperature:g}"]
        parts += [self.order] if self.order != "purity" else []
        return "-".join(parts + ([f"seed{self.seed}"] if self.seed else []))


@DOMAINS.register("protein")
@dataclass(frozen=True)
class ProteinDomain:
    """Letters of a sequence, masked with probability t (t = 0 is data, t = 1 all masked).

    backbone_noise: standard deviation of what is added to every atom in training, in A; min_t:
    times are uniform in [min_t, 1 - min_t]; label_smoothing: share of the target spread evenly
    over the 20 letters; loss_on: all residues, or the masked ones; net_settings: of MPNNConfig.

    A residue counts, in the loss and in alignment, if all its backbone atoms are there and it is
    not X. The public code of REED counts padding, spreads the smoothed mass over X and the mask
    too, sums over the batch and divides by 2,000; here a protein's loss is the mean over the
    residues that count.
    """

    roles = ("coords", "residue", "number", "chain", "neighbours")
    losses = ("diffusion",)
    sampling = DesignOptions

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
        """The net; a protein's fields do not shape it."""
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
        """As the options of ProteinMPNN's training are called."""
        shape = self._settings()
        return {
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
        """Finite coordinates, which residues are resolved, and which count (the batch's mask)."""
        coords, residue = values["coords"], values["residue"]
        resolved = coords.isfinite().all(-1).all(-1)
        if mask is not None:
            resolved = resolved & mask
        data = {"coords": coords.nan_to_num(0.0, 0.0, 0.0), "resolved": resolved}
        data |= {name: values[name] for name in ("residue", "number", "chain")}
        counts = resolved & (residue < LETTERS)
        return Batch(data, targets, counts, values["neighbours"])

    def corrupt(self, batch: Batch, draws: Draws) -> Noised:
        """Masked letters and a shaken backbone; order of draws: time, mask, atoms, dropout."""
        data, residue = batch.data, batch.data["residue"]
        t = self.min_t + (1 - 2 * self.min_t) * draws.uniform()  # [B]
        hidden = masked.mask_tokens(residue, t, draws.uniform(residue.shape[1]), MASK)
        shake = self.backbone_noise * draws.normal(*data["coords"].shape[1:])
        seed = (draws.uniform() * 2**24).int()  # of a row's dropout
        coords = data["coords"] + shake
        graph = {name: data[name] for name in ("resolved", "number", "chain")}
        inputs = {"coords": coords, "residues": hidden, "seed": seed, **graph}
        return Noised(inputs, t, residue)

    def loss(self, prediction: Tensor, noised: Noised, batch: Batch) -> dict[str, Tensor]:
        """Smoothed negative log-likelihood of the letters, [B], in float32."""
        logits = prediction[..., :LETTERS].float().movedim(-1, 1)  # [B, 20, L]
        target = noised.target.clamp(max=LETTERS - 1)  # X does not count, and has no logit
        nll = F.cross_entropy(
            logits, target, reduction="none", label_smoothing=self.label_smoothing
        )
        counts = batch.mask
        assert counts is not None  # collate made one
        if self.loss_on == "masked":
            counts = counts & (noised.inputs["residues"] == MASK)
        return {"diffusion": masked_mean(nll, counts)}

    @torch.no_grad()
    def generate(
        self, net: nn.Module, fields: Mapping[str, Field], indices: range, options: DesignOptions
    ) -> dict[str, np.ndarray]:
        """Designs number `indices`: "sequence" and the name of its "structure", [N] text.

        Features and encoder see each structure once; only the decoder runs at every step. A
        residue without coordinates keeps the letter that it came with.
        """
        if not options.structures:
            raise ReedError("designing needs the structure to design for: --structure FILE")
        last = len(options.structures) - 1
        wanted = [min(index // options.each, last) for index in indices]
        first = wanted[0]
        structures = options.structures[first : wanted[-1] + 1]
        assert isinstance(net, MPNN)
        weight = net.W_e.weight
        device = weight.device
        inputs, residue = collated(structures, device)
        inputs["coords"] = inputs["coords"].to(weight.dtype)
        encoded = net.encode(**inputs)
        rows = torch.tensor([number - first for number in wanted], device=device)
        encoded, residue = encoded.of(rows), residue[rows]
        u, gumbel = (x.to(device) for x in _numbers(options.seed, indices, residue.shape[1]))
        tokens = torch.where(encoded.resolved, MASK, residue)
        filled = masked.unmask(
            denoiser(net, encoded),
            tokens,
            encoded.resolved,
            u,
            gumbel,
            steps=options.steps,
            temperature=options.temperature,
            order=options.order,
        )
        lengths = [len(structures[row].residue) for row in rows.tolist()]
        texts = [spell(row[:n]) for row, n in zip(filled.cpu().numpy(), lengths, strict=True)]
        names = [structures[row].name for row in rows.tolist()]
        return {"sequence": np.array(texts), "structure": np.array(names)}

    def picture(self, samples: Mapping[str, Any], fields: Mapping[str, Field]) -> np.ndarray:
        """A row per design and a shade of grey per letter, white where a shorter one has ended."""
        texts = samples["sequence"]
        shades = np.full((len(texts), max(map(len, texts)), 1), 255, np.uint8)
        for row, text in enumerate(texts):
            shades[row, : len(text), 0] = [11 * ALPHABET.index(letter) for letter in text]
        return shades.repeat(4, 0).repeat(4, 1)


def collated(structures: tuple[Structure, ...], device: Any) -> tuple[dict[str, Any], Tensor]:
    """What `MPNN.encode` is called with for some structures, padded, and their residues [B, L]."""
    longest = max(len(each.residue) for each in structures)
    coords = np.zeros((len(structures), longest, 4, 3), np.float32)
    resolved = np.zeros((len(structures), longest), bool)
    whole = np.zeros((3, len(structures), longest), np.int64)
    for row, each in enumerate(structures):
        length = len(each.residue)
        coords[row, :length] = np.where(each.resolved[:, None, None], each.coords, 0)
        resolved[row, :length] = each.resolved
        whole[:, row, :length] = each.number, each.chain, each.residue
    tensors = [torch.from_numpy(array).to(device) for array in (coords, resolved, *whole)]
    return dict(zip(("coords", "resolved", "number", "chain"), tensors, strict=False)), tensors[-1]


def denoiser(net: MPNN, encoded: Encoded) -> masked.Denoiser:
    """Letters [B, L] to the logits of the 20 letters [B, L, 20], on structures encoded before."""
    return lambda tokens: net.decode(encoded, tokens)[0][..., :LETTERS]


def spell(residue: np.ndarray) -> str:
    """Numbers in ALPHABET as text."""
    return "".join(ALPHABET[number] for number in residue)


def _numbers(seed: int, indices: range, length: int) -> tuple[Tensor, Tensor]:
    """Uniform [N, L] and Gumbel numbers [N, L, 20], each row a function of (seed, index) alone."""
    u = torch.empty(len(indices), length, 1 + LETTERS, dtype=torch.float64)
    for row, index in enumerate(indices):
        u[row].uniform_(generator=torch.Generator().manual_seed(seed_for(seed, "design", index)))
    return u[..., 0], -(-u[..., 1:].log()).log()
