"""The net of Frame2seq, an inverse folding model, on one chain whose letters are all masked.

Source: Akpinaroglu et al., 2023, "Structure-conditioned masked language models"; package frame2seq
0.0.8 (MIT). Attention over invariant points: Jumper et al., 2021, algorithm 22. It is written as
functions, since the registry imports this module, which must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    State = Mapping[str, Tensor]

LETTERS = 21  # of the output, in alphabetical order of the three-letter names, and X
REACH = 32  # positions between two residues up to which they are told apart
BINS, FARTHEST = 24, 12.0  # radial functions of a distance, and the largest of their centres in Å
ATOMS = 4  # N, CA, C and a virtual CB
HEADS, QUERIED, VALUES = 4, 4, 8  # heads of the attention, points of its keys and of its values
FAR = 1e5  # subtracted from the logits of residues that are not there
EPS = 1e-8
CB = (1.522, 1.927, -2.143)  # length to CA, and angle and torsion with N and C, in radians


def shapes(dim: int, depth: int, wide: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights, under the names of the public files.

    Args:
        dim: Channels of residues and of pairs.
        depth: Number of layers.
        wide: Factor of the width within a transition.
    """
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inner: int, outer: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outer, inner), (outer,)

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    linear("sequence_to_single", 6 + dim, dim)
    linear("edge_to_pair", ATOMS**2 * BINS + 2 * REACH + 1, dim)
    linear("single_to_sequence", dim, LETTERS)
    linear("input_sequence_to_single", LETTERS, dim)  # of letters that are given
    norm("input_sequence_layer_norm", dim)
    for i in range(depth):
        # Attention is part 0 of a layer, its norm part 2; part 1 has no weights.
        at, transition = f"layers.{i}", 3 + (wide > 1)
        for name, width in {"q": dim, "kv": 2 * dim, "q_points": HEADS * QUERIED * 3}.items():
            linear(f"{at}.0.linear_{name}", dim, width)
        linear(f"{at}.0.linear_kv_points", dim, HEADS * (QUERIED + VALUES) * 3)
        linear(f"{at}.0.linear_b", dim, HEADS)
        found[f"{at}.0.head_weights"] = (HEADS,)
        linear(f"{at}.0.linear_out", HEADS * (dim + dim // HEADS + 4 * VALUES), dim)
        norm(f"{at}.2", dim)

        # A wide transition lies between two linear layers.
        if wide > 1:
            linear(f"{at}.3", dim, dim * wide)
            linear(f"{at}.5", dim * wide, dim)
        for j in (1, 2, 3):
            linear(f"{at}.{transition}.layers.0.linear_{j}", dim * wide, dim * wide)
        norm(f"{at}.{transition}.layer_norm", dim * wide)

        # The last layer makes no new pairs.
        if i < depth - 1:
            pairs = f"{at}.{transition + 1 + (wide > 1)}"
            linear(f"{pairs}.initial_embed", dim, dim // 2)
            linear(f"{pairs}.trunk.0", 2 * dim, 2 * dim)
            linear(f"{pairs}.trunk.2", 2 * dim, 2 * dim)
            linear(f"{pairs}.final_layer", 2 * dim, dim)
            norm(f"{pairs}.layer_norm", dim)
    return found


def forward(state: State, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states [L, dim] and the logits [L, 21] of a chain.

    Args:
        state: The weights, with the names of ``shapes``.
        atoms: N, CA and C in angstroms, [L, 3, 3]; NaN where not observed.
    """
    import torch

    seen = atoms.isfinite().flatten(1).all(1)
    atoms = atoms.nan_to_num(0.0)
    dim = state["single_to_sequence.weight"].shape[1]

    # A chain without letters adds nothing but the offset of their norm.
    first = torch.cat([positions(len(atoms), dim).to(atoms), turns(atoms)], 1)
    s = _linear(state, "sequence_to_single", first) + state["input_sequence_layer_norm.bias"]
    z = _linear(state, "edge_to_pair", pair_features(with_cb(atoms)))
    frame = frames(atoms)

    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    for i in range(depth):
        at = f"layers.{i}"
        is_wide = f"{at}.5.weight" in state
        s = _norm(state, f"{at}.2", s + attention(_below(state, f"{at}.0"), s, z, frame, seen))
        s = _linear(state, f"{at}.3", s) if is_wide else s
        s = transition(_below(state, f"{at}.{4 if is_wide else 3}"), s)
        s = _linear(state, f"{at}.5", s) if is_wide else s
        if i < depth - 1:
            z = pair_transition(_below(state, f"{at}.{6 if is_wide else 4}"), s, z)
    return s, _linear(state, "single_to_sequence", s)


def attention(
    state: State, s: Tensor, z: Tensor, frame: tuple[Tensor, Tensor], seen: Tensor
) -> Tensor:
    """Attend by queries and keys, by pairs, and by points in the frames of the residues.

    Args:
        state: The weights.
        s: States, [L, dim].
        z: Pairs, [L, L, dim].
        frame: Rotations [L, 3, 3] and origins [L, 3].
        seen: Which residues are there, [L].

    Returns:
        What is added to the states.
    """
    import torch
    from torch.nn import functional

    length, (turn, origin) = len(s), frame
    q = _linear(state, "linear_q", s).view(length, HEADS, -1)
    k, v = _linear(state, "linear_kv", s).view(length, HEADS, -1).chunk(2, -1)
    q_points = _placed(_linear(state, "linear_q_points", s), frame)
    points = _placed(_linear(state, "linear_kv_points", s), frame)
    k_points, v_points = points.split([QUERIED, VALUES], 2)

    # The three terms have the same variance at first, hence the thirds.
    logits = torch.einsum("ihc,jhc->hij", q, k) * math.sqrt(1 / (3 * q.shape[-1]))
    logits = logits + math.sqrt(1 / 3) * _linear(state, "linear_b", z).permute(2, 0, 1)
    apart = (q_points[:, None] - k_points[None]).square().sum((-1, -2))  # [L, L, heads]
    weight = functional.softplus(state["head_weights"]) * math.sqrt(1 / (3 * QUERIED * 9 / 2))
    both = (seen[:, None] & seen[None]).to(s)
    logits = logits - 0.5 * (apart * weight).permute(2, 0, 1) + FAR * (both - 1)
    share = logits.softmax(-1)

    # Points go back to the frame of the residue that looks at them.
    found = torch.einsum("hij,jhpx->ihpx", share, v_points) - origin[:, None, None]
    found = torch.einsum("ixy,ihpx->ihpy", turn, found).flatten(1, 2)
    norms = (found.square().sum(-1) + EPS).sqrt()
    values = torch.einsum("hij,jhc->ihc", share, v).flatten(1)
    pairs = torch.einsum("hij,ijc->ihc", share, z).flatten(1)
    return _linear(state, "linear_out", torch.cat([values, *found.unbind(-1), norms, pairs], 1))


def transition(state: State, s: Tensor) -> Tensor:
    """Return new states by three linear layers beside the identity, and a norm, [L, dim]."""
    hidden = _linear(state, "layers.0.linear_1", s).relu()
    hidden = _linear(state, "layers.0.linear_2", hidden).relu()
    return _norm(state, "layer_norm", s + _linear(state, "layers.0.linear_3", hidden))


def pair_transition(state: State, s: Tensor, z: Tensor) -> Tensor:
    """Return new pairs from the pairs and the states of both residues, [L, L, dim]."""
    import torch

    each = _linear(state, "initial_embed", s)
    shape = (len(s), len(s), -1)
    both = torch.cat([z, each[:, None].expand(shape), each[None].expand(shape)], -1)
    hidden = _linear(state, "trunk.0", both).relu()
    hidden = _linear(state, "trunk.2", hidden).relu()
    return _norm(state, "layer_norm", _linear(state, "final_layer", hidden + both))


def _placed(flat: Tensor, frame: tuple[Tensor, Tensor]) -> Tensor:
    """Return points in space, [L, heads, points, 3], from those in frames, [L, 3 * heads * ...]."""
    import torch

    turn, origin = frame
    local = torch.stack(flat.chunk(3, -1), -1)  # [L, heads * points, 3]
    placed = torch.einsum("ixy,ipy->ipx", turn, local) + origin[:, None]
    return placed.unflatten(1, (HEADS, -1))


def _below(state: State, name: str) -> State:
    return {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    from torch.nn import functional

    weight = state[f"{name}.weight"]
    return functional.layer_norm(x, weight.shape, weight, state[f"{name}.bias"])


def with_cb(atoms: Tensor) -> Tensor:
    """Add a virtual CB to N, CA and C: [L, 3, 3] -> [L, 4, 3]; the origin where it is undefined."""
    import torch
    from torch.nn import functional

    n, ca, c = atoms.unbind(1)
    length, angle, torsion = CB
    along = functional.normalize(n - ca, dim=-1)
    across = torch.linalg.cross(n - c, along)
    across = across / across.norm(dim=-1, keepdim=True)
    side = torch.linalg.cross(across, along)
    inward, outward = math.cos(angle), math.sin(angle)
    step = inward * along + outward * math.cos(torsion) * side
    cb = ca + length * (step - outward * math.sin(torsion) * across)
    return torch.cat([atoms, cb.nan_to_num(0.0)[:, None]], 1)


def pair_features(atoms: Tensor) -> Tensor:
    """Return radial functions of distances, and positions apart: [L, 4, 3] -> [L, L, 449]."""
    import torch
    from torch.nn import functional

    length, flat = len(atoms), atoms.flatten(0, 1)
    exact = "donot_use_mm_for_euclid_dist"  # the faster way gives an atom a distance to itself
    distances = torch.cdist(flat, flat, compute_mode=exact)
    centres = torch.linspace(0, FARTHEST, BINS, device=atoms.device)
    radial = torch.exp(-(((distances[..., None] - centres) / (FARTHEST / BINS)) ** 2))
    radial = radial.view(length, ATOMS, length, ATOMS, BINS).transpose(1, 2).flatten(2)
    place = torch.arange(length, device=atoms.device)
    apart = (place[:, None] - place[None]).clamp(-REACH, REACH) + REACH
    return torch.cat([radial, functional.one_hot(apart, 2 * REACH + 1).to(radial)], -1)


def frames(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotations [L, 3, 3] and origins [L, 3]: x from N to CA, C in the plane of x and y."""
    import torch

    n, ca, c = atoms.unbind(1)
    x = ca - n
    x = x / (x.square().sum(-1, keepdim=True) + EPS).sqrt()
    y = c - ca
    y = y - x * (x * y).sum(-1, keepdim=True)
    y = y / (y.square().sum(-1, keepdim=True) + EPS).sqrt()
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1), ca


def turns(atoms: Tensor, eps: float = 1e-7) -> Tensor:
    """Return cosines and sines of the torsions phi, psi and omega, [L, 6]; 1 and 0 at the ends."""
    import torch
    from torch.nn import functional

    steps = functional.normalize(atoms.flatten(0, 1).diff(dim=0), dim=-1)
    normals = functional.normalize(torch.linalg.cross(steps[:-1], steps[1:]), dim=-1)
    cosine = (normals[:-1] * normals[1:]).sum(-1).clamp(-1 + eps, 1 - eps)
    angle = torch.sign((steps[:-2] * normals[1:]).sum(-1)) * torch.acos(cosine)
    angle = functional.pad(angle, (1, 2)).view(-1, 3)
    return torch.cat([angle.cos(), angle.sin()], 1)


def positions(length: int, dim: int) -> Tensor:
    """Return sines and cosines of the positions in turn, [L, dim]."""
    import torch

    rate = torch.exp(torch.arange(0, dim, 2) * -(math.log(10000.0) / dim))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
