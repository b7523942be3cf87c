"""Public weights of ProteinMPNN and LigandMPNN: what they lack, and which of them do not fit.

Source: ProteinMPNN (Dauparas et al. 2022) and LigandMPNN (Dauparas et al. 2023), released files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reed.errors import ReedError

# Names of settings in ProteinMPNN's files, then in those of `reed-train export`.
NEIGHBOURS, NOISE = ("num_edges", "num_neighbors"), ("noise_level", "backbone_noise")

_LETTERS = ("W_s.weight", "W_out.weight", "W_out.bias")  # 21 rows in the files, 22 with the mask
_CA_ONLY = 16 + 16 * 9 + 7  # edge features of the CA-only net: offset, distances, orientations
_LINEAR, _NORM = "W_edge.3", "norm_edge"  # the last layer of the update of edges, and its norm


def stated(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings of the net that follow from weights of ProteinMPNN; {} for others.

    Its decoder sees the encoder's states of residues without a letter. REED's weights are told by
    the update of edges, which ProteinMPNN lacks.
    """
    is_own = {"W_s.weight", "features.edge_embedding.weight"} <= weights.keys()
    has_update = any(".W_edge." in name for name in weights)
    return {"masked_neighbours": "encoder"} if is_own and not has_update else {}


def _refuse_others(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise ReedError if the weights are of a net of the family that reads something else.

    Args:
        weights: State dict of the file.
        what: The file, for messages.
    """
    edges = weights.get("features.edge_embedding.weight")
    reads = ""
    if "features.node_embedding.weight" in weights:
        is_ca = edges is not None and edges.dim() == 2 and edges.shape[1] == _CA_ONLY
        reads = "is CA-only: its net reads CA alone" if is_ca else "reads a label of every residue"
    elif "W_c.weight" in weights:
        reads = "is of LigandMPNN, whose net also reads the atoms of ligands"
    if reads:
        raise ReedError(
            f"{what} {reads}, this net reads N, CA, C and O; use a vanilla or soluble v_48_*.pt of "
            "ProteinMPNN"
        )


def told(args: Mapping[str, Any], what: str, neighbours: int) -> list[str]:
    """Return a line to show if a file states another number of neighbours than the net has.

    The graph has no weights, so a file fits a net with any number.
    """
    theirs = next((args[name] for name in NEIGHBOURS if name in args), neighbours)
    if theirs == neighbours:
        return []
    return [
        f"{what}: trained with {theirs} neighbours, domain.net_settings.neighbours is "
        f"{neighbours}; set {theirs} to start from the same net"
    ]


def load(net: nn.Module, weights: Mapping[str, Tensor], what: str, mask: int) -> list[str]:
    """Load public weights into an MPNN, and return the lines to show to the user.

    Args:
        net: The net.
        weights: State dict of the file.
        what: The file, for messages.
        mask: Index of the mask, the row that follows the letters of ProteinMPNN.

    Raises:
        ReedError: The weights do not fit the net.
    """
    _refuse_others(weights, what)
    current = net.state_dict()
    own = {name: v for name, v in weights.items() if not name.startswith("projectors_")}
    loaded = _with_mask(own, current, mask)

    wrong = [n for n in loaded if n not in current or current[n].shape != loaded[n].shape]
    if wrong or not loaded:
        problem = f"{wrong[0]} is not in this net, or has another shape" if wrong else "empty"
        raise ReedError(f"{what} does not fit the net: {problem}; public nets are the default")
    fresh = [name for name in current if name not in loaded]
    net.load_state_dict(loaded | _neutral(current | loaded, fresh, mask), strict=False)

    shown = ", ".join(fresh[:3]) + (", …" if len(fresh) > 3 else "")
    note = f"; {len(fresh)} tensors that it lacks start neutral: {shown}" if fresh else ""
    return [f"{what}: starting from its weights{note}"]


def _with_mask(
    weights: Mapping[str, Tensor], current: Mapping[str, Tensor], mask: int
) -> dict[str, Tensor]:
    """Add the mask's rows to weights of 21 letters.

    ProteinMPNN shows the decoder no letter of a residue that is not decoded yet, so the mask's
    embedding is zero. The mask's row of W_out keeps its values, because nothing reads it.
    """
    loaded = dict(weights)
    for name in _LETTERS:
        rows = loaded.get(name)
        if rows is not None and rows.shape == (mask, *current[name].shape[1:]):
            own = current[name][mask:].to(rows)
            loaded[name] = torch.cat([rows, torch.zeros_like(own) if "W_s" in name else own])
    return loaded


def _neutral(state: Mapping[str, Tensor], fresh: Sequence[str], mask: int) -> dict[str, Tensor]:
    """Return values with which the update of edges changes little; it is trained from there on.

    ProteinMPNN does not update edges, so the update is zero. Its norm divides the channels of an
    edge by their deviation, so it multiplies by the deviation that they have on average.

    Args:
        state: State dict of the net, with the weights that a file holds.
        fresh: Names that the file lacks.
        mask: Index of the mask.
    """
    last = max(int(n.split(".")[1]) for n in state if n.startswith("encoder_layers."))
    scale, shift = (state[f"encoder_layers.{last}.norm3.{part}"] for part in ("weight", "bias"))
    mean, deviation = _of_edges(scale, shift, state["W_s.weight"][: mask - 1])

    values = {}
    for name in fresh:
        layer, _, part = name.rpartition(".")
        if layer.endswith(_LINEAR):
            values[name] = torch.zeros_like(state[name])
        elif layer.endswith(_NORM):
            values[name] = torch.full_like(state[name], deviation if part == "weight" else mean)
    return values


def _of_edges(scale: Tensor, shift: Tensor, letters: Tensor) -> tuple[float, float]:
    """Return mean and deviation over the channels of an edge that enters the decoder.

    Half of the channels come from the last norm of the encoder, the others are a letter. The norm
    gives every channel the variance scale^2 around shift.

    Args:
        scale: Weights of the norm, [C].
        shift: Biases of the norm, [C].
        letters: Embeddings of the amino acids, [20, C].
    """
    mean = (shift.double().mean() + letters.double().mean()) / 2
    square = (scale.double().square() + shift.double().square()).mean()
    square = (square + letters.double().square().mean()) / 2
    return float(mean), float((square - mean.square()).sqrt())
