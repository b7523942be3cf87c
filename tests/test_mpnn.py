"""The protein net: public numbers and names, invariances, masks, dropout by place."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reed.errors import ReedError
from reed.nets.layers import placed_dropout
from reed.nets.mpnn import LETTERS, MASK, MPNN, SCALE, MPNNConfig
from reed.nets.mpnn_drawing import DesignDecoder
from reed.nets.mpnn_features import nearest
from reed.train import public
from reed.train.align import AlignedNet

FILES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_weights.py"))))
GOLDEN = Path(__file__).parent / "golden"
TINY = MPNNConfig(hidden=16, encoder_layers=2, decoder_layers=2, neighbours=8, dropout=0.0)


def shaken(net):
    """No parameter at a value that could hide it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net.eval()


def protein(length, seed=0):
    """The inputs of one random backbone of two chains, a batch of one."""
    rng = np.random.default_rng(seed)
    ca = rng.standard_normal((length, 3)).cumsum(0) * 2.2
    coords = ca[:, None] + rng.standard_normal((length, 4, 3))
    second = np.arange(length) >= length // 2
    return {
        "coords": torch.tensor(coords[None], dtype=torch.float32),
        "residues": torch.from_numpy(rng.integers(0, MASK + 1, (1, length))),
        "resolved": torch.ones(1, length, dtype=torch.bool),
        "number": torch.from_numpy(np.arange(length) + 100 * second)[None],
        "chain": torch.from_numpy(second.astype(np.int64))[None],
    }


def padded(inputs, length):
    """The same protein in a longer batch; the padding holds atoms and letters."""
    size = inputs["number"].shape[1]
    longer = {}
    for name, value in inputs.items():
        more = list(value.shape)
        more[1] = length - size
        fill = torch.zeros(more, dtype=value.dtype) if name == "resolved" else torch.ones(more)
        longer[name] = torch.cat([value, fill.to(value.dtype)], 1)
    return longer


def joined(parts):
    longest = max(part["number"].shape[1] for part in parts)
    parts = [padded(part, longest) for part in parts]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return shaken(MPNN(TINY))


def test_it_computes_what_the_public_code_does():
    with np.load(GOLDEN / "mpnn_tiny.npz") as file:
        golden = {k: torch.from_numpy(file[k]) for k in file.files if not k.endswith("json")}
        net = MPNN(MPNNConfig(**json.loads(str(file["cfg_json"])))).eval()
    net.load_state_dict({k[3:]: v for k, v in golden.items() if k.startswith("sd/")})
    inputs = {k[3:]: v for k, v in golden.items() if k.startswith("in/")}
    with torch.no_grad():
        logits, states = net(**inputs, taps=[1, 2, 3, 4])
    resolved = inputs["resolved"]
    near = {"rtol": 0, "atol": 2e-5}
    wanted = golden["out/log_probs"]
    torch.testing.assert_close(logits.log_softmax(-1)[resolved], wanted[resolved], **near)
    for tap, state in states.items():
        assert torch.equal(state.index[resolved], golden["out/index"][resolved])
        torch.testing.assert_close(
            state.nodes[resolved], golden[f"out/nodes{tap}"][resolved], **near
        )
        if tap < 4:  # the last layer's edges are read by nothing
            torch.testing.assert_close(
                state.edges[resolved], golden[f"out/edges{tap}"][resolved], **near
            )


def test_names_and_size_are_those_of_the_public_code():
    state = MPNN(MPNNConfig()).state_dict()
    assert len(FILES.mpnn_names()) == 118 and set(FILES.mpnn_names()) < set(state)
    assert len(state) == 143  # REED's 155 without its three projectors of four entries
    assert sum(value.numel() for value in state.values()) == 2_403_910  # "2.404 M"
    assert state["features.edge_embedding.weight"].shape == (128, 416)
    assert state["features.embeddings.linear.weight"].shape == (16, 66)
    assert state["decoder_layers.2.W_edge.3.weight"].shape == (256, 384)


def test_public_weights_load():
    net = MPNN(MPNNConfig())
    mask = net.W_out.weight[MASK].clone()
    weights = FILES.mpnn_state()
    said = net.adopt(weights, "v_48_020.pt")
    assert said == [
        "v_48_020.pt: starting from its weights; 25 tensors that it lacks start neutral: "
        "node_embeds, decoder_layers.0.W_edge.0.weight, decoder_layers.0.W_edge.0.bias, …"
    ]
    assert torch.equal(net.W_s.weight[:MASK], weights["W_s.weight"])
    assert torch.equal(net.W_out.weight[MASK], mask)
    whole = MPNN(MPNNConfig()).state_dict() | {"projectors_pair.0.weight": torch.zeros(256, 256)}
    assert net.adopt(whole, "reed.pt") == ["reed.pt: starting from its weights"]
    for wrong, said in ((weights, "encoder_layers.0.W1.weight is not"), ({}, "empty")):
        with pytest.raises(ReedError, match=f"v.pt does not fit the net: {said}"):
            MPNN(TINY).adopt(wrong, "v.pt")


def test_a_run_starts_from_the_public_file(tmp_path):
    path = FILES.mpnn(tmp_path / "v_48_020.pt")
    model = AlignedNet(MPNN(MPNNConfig()), {})
    said = public.start_from(model, path)
    assert len(said) == 2 and said[0].startswith(f"{path}: starting from its weights; 25 ")
    assert torch.equal(model.net.W_e.weight, FILES.mpnn_state()["W_e.weight"])


def test_rotation_and_translation_change_nothing(net):
    inputs = protein(40)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))[0]
    moved = inputs | {"coords": inputs["coords"] @ turn + torch.tensor([30.0, -7.0, 12.0])}
    mirrored = inputs | {"coords": inputs["coords"] * torch.tensor([1.0, 1.0, -1.0])}
    still = net(**inputs)[0]
    if torch.linalg.det(turn) < 0:
        moved["coords"] = inputs["coords"] @ -turn + torch.tensor([30.0, -7.0, 12.0])
    torch.testing.assert_close(net(**moved)[0], still, rtol=0, atol=2e-4)
    assert (net(**mirrored)[0] - still).abs().max() > 0.01  # the beta carbon knows left from right


@pytest.mark.parametrize("length", [1, 3, 7, 8, 25])  # shorter than k, equal, longer
def test_padding_changes_nothing(net, length):
    inputs = protein(length)
    alone, states = net(**inputs, taps=[1, 3])
    in_batch, more = net(**padded(inputs, 40), taps=[1, 3])
    near = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(in_batch[:, :length], alone, **near)
    for tap in (1, 3):
        torch.testing.assert_close(more[tap].nodes[:, :length], states[tap].nodes, **near)
        assert not more[tap].nodes[:, length:].any() and not more[tap].real[:, length:].any()
        assert int(more[tap].real.sum()) == length * min(8, length)


def test_batch_mates_change_nothing(net):
    parts = [protein(length, seed) for seed, length in enumerate((12, 30, 5))]
    together = net(**joined(parts))[0]
    for row, part in enumerate(parts):
        alone = net(**part)[0]
        length = alone.shape[1]
        torch.testing.assert_close(together[row : row + 1, :length], alone, rtol=0, atol=1e-5)


def test_missing_residues_are_as_if_cut_out(net):
    inputs = protein(30)
    kept = torch.ones(30, dtype=torch.bool)
    kept[[4, 17, 18]] = False
    holes = inputs | {"resolved": kept[None]}
    holes["coords"] = torch.where(kept.view(1, -1, 1, 1), inputs["coords"], 0.0)
    cut = {name: value[:, kept] for name, value in inputs.items()}
    torch.testing.assert_close(net(**holes)[0][:, kept], net(**cut)[0], rtol=0, atol=1e-5)


def test_neighbours_are_the_nearest_and_never_padding():
    generator = torch.Generator().manual_seed(3)
    ca = torch.randn(2, 9, 3, generator=generator)
    resolved = torch.ones(2, 9, dtype=torch.bool)
    resolved[1, 4:] = False
    index, real = nearest(ca, resolved, 6)
    assert real[0].all() and int(real[1].sum()) == 4 * 4
    assert (index[1, :4][real[1, :4]] < 4).all()
    assert torch.equal(index[..., 0], torch.arange(9).expand(2, 9))
    by_hand = (ca[0, 3] - ca[0]).norm(dim=-1).argsort()[:6]
    assert torch.equal(index[0, 3], by_hand)
    own = torch.arange(9).view(9, 1).expand(9, 6)
    assert torch.equal(index[1][~real[1]], own[~real[1]])


def test_the_encoder_needs_no_letters_and_the_decoder_no_atoms(net):
    inputs = protein(20)
    graph = {name: inputs[name] for name in ("coords", "resolved", "number", "chain")}
    encoded = net.encode(**graph)
    whole = net(**inputs)[0]
    assert torch.equal(net.decode(encoded, inputs["residues"])[0], whole)
    twice = net.decode(encoded.of(torch.tensor([0, 0])), inputs["residues"].expand(2, -1))[0]
    torch.testing.assert_close(twice, whole.expand(2, -1, -1), rtol=0, atol=1e-5)


def test_every_trained_parameter_gets_a_gradient():
    torch.manual_seed(0)
    net = MPNN(TINY)
    net(**protein(20))[0].square().sum().backward()
    without = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen and all(n.startswith("decoder_layers.1.") and "edge" in n for n in frozen)


def test_taps_are_counted_from_one_and_the_last_has_no_edges(net):
    taps = net.taps()
    assert [tap.edges for tap in taps] == [16, 16, 32, 0]
    assert [tap.width for tap in taps] == [16] * 4
    _, states = net(**protein(10), taps=[1, 2, 3])
    assert [state.edges.shape[-1] for state in states.values()] == [16, 16, 32]
    for tap in (0, 5):
        with pytest.raises(ReedError, match=rf"tap {tap} is not a layer.*1 to 4"):
            net(**protein(10), taps=[tap])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [({"hidden": 0}, "hidden is 0"), ({"dropout": 1.0}, "dropout is 1.0, it must be in")],
)
def test_settings_that_make_no_net_are_refused(wrong, match):
    with pytest.raises(ReedError, match=match):
        MPNNConfig(**wrong)


def test_dropout_follows_from_the_rows_seed_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 50, 40, generator=generator) + 1
    seed = torch.tensor([5, 6, 5], dtype=torch.int32)
    dropped = placed_dropout(x, 0.25, seed, 1)
    mask = dropped != 0
    assert torch.equal(dropped[mask], (x / 0.75)[mask])
    assert torch.equal(mask[0], mask[2]) and not torch.equal(mask[0], mask[1])
    assert torch.equal(placed_dropout(x[1:2], 0.25, seed[1:2], 1), dropped[1:2])
    longer = placed_dropout(torch.cat([x, x], 1), 0.25, seed, 1)
    assert torch.equal(longer[:, :50], dropped)
    assert not torch.equal(placed_dropout(x, 0.25, seed, 2) != 0, mask)
    # 6,000 coins: five standard deviations
    assert abs(float((~mask).float().mean()) - 0.25) < 5 * (0.25 * 0.75 / mask.numel()) ** 0.5
    both = (mask[0] & mask[1]).float().mean()
    assert abs(float(both) - 0.75**2) < 0.06
    for flat in (mask[0].float(), mask[1].float()):  # neither rows nor columns stand out
        assert flat.mean(0).std() < 0.1 and flat.mean(1).std() < 0.1


def test_dropout_does_not_depend_on_batch_mates():
    torch.manual_seed(0)
    net = MPNN(MPNNConfig(hidden=16, encoder_layers=1, decoder_layers=1, neighbours=8)).train()
    parts = [protein(12, 0), protein(20, 1)]
    seed = torch.tensor([1, 2], dtype=torch.int32)
    together = net(**joined(parts), seed=seed)[0]
    alone = net(**parts[0], seed=seed[:1])[0]
    torch.testing.assert_close(together[:1, :12], alone, rtol=0, atol=1e-5)
    other = net(**parts[0], seed=seed[1:])[0]
    assert (other - alone).abs().max() > 1e-3
    assert torch.equal(net.eval()(**parts[0], seed=seed[:1])[0], net(**parts[0])[0])


def test_letters_are_the_twenty():
    assert LETTERS == 20 and MASK == 21


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("neighbours", ["decoder", "encoder"])
def test_designing_computes_what_the_decoder_does(layers, neighbours):
    torch.manual_seed(layers)
    shape = replace(TINY, decoder_layers=layers, masked_neighbours=neighbours)
    net = shaken(MPNN(shape)).double().eval()
    inputs = joined([protein(9, seed=1), protein(14, seed=2), protein(11, seed=3)])
    inputs["coords"], inputs["resolved"][1, 4] = inputs["coords"].double(), False
    letters = torch.where(inputs["resolved"], MASK, inputs.pop("residues") % LETTERS)
    with torch.inference_mode():
        encoded = net.encode(**inputs)
        decoder = DesignDecoder(net, encoded, MASK, SCALE, LETTERS)
        # Some letters appear in some rows, then others in other rows.
        for rows, place in (([0, 1, 2], 3), ([0, 2], 5), ([1], 7), ([0, 1, 2], 0)):
            some = torch.tensor(rows)
            found = decoder(letters[some], some)
            true = net.decode(encoded, letters)[0][some][..., :LETTERS]
            hidden = letters[some] == MASK
            torch.testing.assert_close(found[hidden], true[hidden], rtol=1e-9, atol=1e-9)
            letters = letters.clone()
            letters[some, place] = (some + place) % LETTERS
