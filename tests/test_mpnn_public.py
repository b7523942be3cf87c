"""Public weights of ProteinMPNN: the net predicts what they predict in their own code."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reed.errors import ReedError
from reed.nets.mpnn import LETTERS, MASK, MPNN, MPNNConfig
from reed.train import public
from reed.train.align import AlignedNet

FILES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))
SMALL = {"hidden": 16, "neighbours": 12}
LENGTH = 30


def small_state() -> dict[str, torch.Tensor]:
    """Random weights with the names of a v_48_*.pt and the statistics of the public ones."""
    shapes = MPNN(MPNNConfig(**SMALL)).state_dict()
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name in FILES.mpnn_names():
        shape = list(shapes[name].shape)
        shape[0] = MASK if name.startswith(("W_s", "W_out")) else shape[0]
        value = torch.randn(shape, generator=generator)
        fan = shape[-1] if len(shape) > 1 else 100
        state[name] = value / fan**0.5
        if "norm" in name and name.endswith("weight"):
            state[name] = 0.4 + 0.1 * value
    return state | {"W_out.weight": 8 * state["W_out.weight"]}  # certain of some letters


def file_of(path: Path, state: dict[str, torch.Tensor], **more) -> Path:
    """The true layout of ProteinMPNN's and LigandMPNN's files."""
    torch.save({"num_edges": 48, "noise_level": 0.2, "model_state_dict": state} | more, path)
    return path


def backbone() -> dict[str, torch.Tensor]:
    """A random backbone of two chains, with two residues that were not observed."""
    rng = np.random.default_rng(0)
    ca = rng.standard_normal((LENGTH, 3)).cumsum(0) * 2.2
    chain = np.arange(LENGTH) >= 18
    resolved = torch.ones(1, LENGTH, dtype=torch.bool)
    resolved[0, [4, 20]] = False
    return {
        "coords": torch.tensor((ca[:, None] + rng.standard_normal((LENGTH, 4, 3)))[None]).float(),
        "resolved": resolved,
        "number": torch.from_numpy(np.arange(LENGTH) + 100 * chain)[None],
        "chain": torch.from_numpy(chain.astype(np.int64))[None],
    }


class Theirs:
    """ProteinMPNN, written from its description: dense, one residue at a time."""

    def __init__(self, state):
        self.state = state

    def linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def norm(self, x, name):
        weight, bias = (self.state[f"{name}.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    def mlp(self, x, *names):
        for name in names[:-1]:
            x = F.gelu(self.linear(x, name))
        return self.linear(x, names[-1])

    def graph(self, inputs):
        """The nearest observed residues of each residue, and the features of their edges."""
        xyz, there = inputs["coords"][0], inputs["resolved"][0]
        number, chain = inputs["number"][0], inputs["chain"][0]
        b, c = xyz[:, 1] - xyz[:, 0], xyz[:, 2] - xyz[:, 1]
        beta = -0.58273431 * torch.linalg.cross(b, c) + 0.56802827 * b - 0.54067466 * c + xyz[:, 1]
        atoms = dict(zip(["N", "A", "C", "O", "B"], [*xyz.unbind(1), beta], strict=True))
        pairs = "AA NN CC OO BB AN AC AO AB NC NO NB BC BO OC NA CA OA BA CN ON BN CB OB CO".split()
        centres = torch.linspace(2, 22, 16)

        neighbours, edges = {}, {}
        for i in there.nonzero().flatten().tolist():
            far = (xyz[:, 1] - xyz[i, 1]).norm(dim=-1).masked_fill(~there, 1e9)
            neighbours[i] = index = far.argsort()[: SMALL["neighbours"]]
            offset = (number[i] - number[index]).clamp(-32, 32) + 32
            code = F.one_hot(torch.where(chain[i] == chain[index], offset, 65), 66).float()
            radial = []
            for p, q in pairs:
                apart = ((atoms[p][i] - atoms[q][index]).square().sum(-1) + 1e-6).sqrt()
                radial.append(torch.exp(-(((apart[:, None] - centres) / (20 / 16)) ** 2)))
            rows = torch.cat([self.linear(code, "features.embeddings.linear"), *radial], -1)
            rows = self.norm(self.linear(rows, "features.edge_embedding"), "features.norm_edges")
            edges[i] = self.linear(rows, "W_e")
        return neighbours, edges

    def step(self, h, rows, name):
        """The states after a layer, from what every residue reads: {residue: [K, channels]}."""
        new = h.clone()
        for i, more in rows.items():
            joined = torch.cat([h[i].expand(len(more), -1), more], -1)
            message = self.mlp(joined, *(f"{name}.W{n}" for n in (1, 2, 3))).sum(0) / 30
            x = self.norm(h[i] + message, f"{name}.norm1")
            x = x + self.mlp(x, f"{name}.dense.W_in", f"{name}.dense.W_out")
            new[i] = self.norm(x, f"{name}.norm2")
        return new

    def logits(self, inputs, letters, known):
        """Logits [L, 21], where residues see letter and state of the neighbours in `known` [L].

        Of the others they see the encoder's state alone.
        """
        neighbours, edges = self.graph(inputs)
        h = torch.zeros(LENGTH, SMALL["hidden"])
        for name in (f"encoder_layers.{n}" for n in range(3)):
            h = self.step(
                h, {i: torch.cat([edges[i], h[j]], -1) for i, j in neighbours.items()}, name
            )
            for i, j in neighbours.items():
                rows = torch.cat([h[i].expand(len(j), -1), edges[i], h[j]], -1)
                change = self.mlp(rows, *(f"{name}.W{n}" for n in (11, 12, 13)))
                edges[i] = self.norm(edges[i] + change, f"{name}.norm3")

        encoded, embedded = h, self.state["W_s.weight"][letters] * known[:, None]
        for name in (f"decoder_layers.{n}" for n in range(3)):
            shown = torch.where(known[:, None], h, encoded)
            rows = {
                i: torch.cat([edges[i], embedded[j], shown[j]], -1) for i, j in neighbours.items()
            }
            h = self.step(h, rows, name)
        return self.linear(h, "W_out")


def adopted(state=None, **settings) -> MPNN:
    torch.manual_seed(0)
    net = MPNN(MPNNConfig(**SMALL | settings))
    net.adopt(small_state() if state is None else state, "v_48_020.pt")
    return net.eval()


def log_p(logits):
    return logits[..., :LETTERS].log_softmax(-1)


@pytest.fixture(scope="module", params=["no letters", "some letters"])
def case(request):
    """Inputs with letters or without, and the log-probabilities of ProteinMPNN."""
    inputs, rng = backbone(), np.random.default_rng(1)
    letters = torch.from_numpy(rng.integers(0, LETTERS, LENGTH))
    known = torch.from_numpy(rng.uniform(size=LENGTH) < 0.5) & (request.param == "some letters")
    with torch.no_grad():
        want = log_p(Theirs(small_state()).logits(inputs, letters, known))
    return inputs | {"residues": torch.where(known, letters, MASK)[None]}, want


@torch.no_grad()
def test_adopted_weights_compute_what_proteinmpnn_does(case):
    inputs, want = case
    there = inputs["resolved"][0]
    assert want[there].exp().amax(-1).mean() > 0.2  # not uniform
    net = adopted(masked_neighbours="encoder")
    for layer in net.decoder_layers:
        layer.norm_edge = nn.Identity()  # all that is left of the update of edges
    found = log_p(net(**inputs)[0])[0]
    torch.testing.assert_close(found[there], want[there], rtol=0, atol=2e-4)


@torch.no_grad()
def test_the_update_of_edges_starts_so_that_it_changes_little(case):
    inputs, want = case
    there = inputs["resolved"][0]

    def distance(net):
        found = log_p(net(**inputs)[0])[0]
        return float(F.kl_div(found[there], want[there], log_target=True, reduction="batchmean"))

    # With values of a fresh net in their place, the distance is above 0.09.
    assert distance(adopted(masked_neighbours="encoder")) < 5e-4
    assert distance(adopted()) < 0.02  # masked neighbours have other states, too


def test_what_the_file_lacks_follows_from_its_weights():
    state, net = small_state(), adopted()
    assert torch.equal(net.W_s.weight[:MASK], state["W_s.weight"])
    assert not net.W_s.weight[MASK].any() and not net.node_embeds.any()

    # An edge that enters the decoder, by drawing many: normalised channels, then a letter.
    scale, shift = (state[f"encoder_layers.2.norm3.{part}"] for part in ("weight", "bias"))
    draw = torch.randn(4000, SMALL["hidden"], generator=torch.Generator().manual_seed(0))
    edges = F.layer_norm(draw, (SMALL["hidden"],)) * scale + shift
    edges = torch.cat([edges, state["W_s.weight"][torch.arange(4000) % LETTERS]], -1)
    for layer in net.decoder_layers:
        assert not layer.W_edge[3].weight.any() and not layer.W_edge[3].bias.any()
        assert layer.norm_edge.weight.unique().item() == pytest.approx(
            edges.var(1, correction=0).mean().sqrt().item(), rel=0.03
        )
        assert layer.norm_edge.bias.unique().item() == pytest.approx(edges.mean().item(), abs=0.01)


def test_a_net_with_an_update_of_its_own_keeps_it():
    state = MPNN(MPNNConfig(**SMALL)).state_dict()
    net = MPNN(MPNNConfig(**SMALL))
    assert net.adopt(state, "reed.pt") == ["reed.pt: starting from its weights"]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_masked_neighbours_matter_from_the_second_layer_of_the_decoder_on():
    inputs = backbone() | {"residues": torch.full((1, LENGTH), MASK)}
    for layers, same in ((1, True), (2, False)):
        torch.manual_seed(0)
        nets = [
            MPNN(MPNNConfig(**SMALL, decoder_layers=layers, masked_neighbours=kind)).eval()
            for kind in ("decoder", "encoder")
        ]
        nets[1].load_state_dict(nets[0].state_dict())
        assert torch.equal(*(net(**inputs)[0] for net in nets)) == same
    known = inputs | {"residues": torch.zeros(1, LENGTH, dtype=torch.int64)}
    assert torch.equal(*(net(**known)[0] for net in nets))
    with pytest.raises(ReedError, match="masked_neighbours cannot be 'encodr'.*encoder"):
        MPNNConfig(masked_neighbours="encodr")


OTHERS = {
    "CA-only": ({"features.edge_embedding.weight": (16, 167), "W_v.weight": (16, 16)}, True),
    "reads a label of every residue": ({"W_v.weight": (16, 16)}, True),
    "also reads the atoms of ligands": ({"W_c.weight": (16, 16)}, False),
}


@pytest.mark.parametrize("said", OTHERS)
def test_files_of_other_nets_of_the_family_are_refused_in_one_line(said, tmp_path):
    shapes, has_nodes = OTHERS[said]
    shapes = shapes | ({"features.node_embedding.weight": (16, 3)} if has_nodes else {})
    more = {name: torch.zeros(shape) for name, shape in shapes.items()}
    path = file_of(tmp_path / "v_48_020.pt", small_state() | more)
    with pytest.raises(
        ReedError, match=f"v_48_020.pt .*{said}.*this net reads N, CA, C and O"
    ) as e:
        public.start_from(AlignedNet(MPNN(MPNNConfig(**SMALL)), {}), path)
    assert "\n" not in str(e.value)


def test_another_number_of_neighbours_is_told_in_one_line(tmp_path):
    path = file_of(tmp_path / "v.pt", small_state())
    said = public.start_from(AlignedNet(MPNN(MPNNConfig(**SMALL)), {}), path)
    assert said[1:] == [
        f"{path}: trained with 48 neighbours, domain.net_settings.neighbours is 12; "
        "set 48 to start from the same net"
    ]
    net = MPNN(MPNNConfig(**SMALL | {"neighbours": 48}))
    assert len(public.start_from(AlignedNet(net, {}), path)) == 1
