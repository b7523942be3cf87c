"""ChemNet: equal to the package fcd, whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reed.build.shard import BadSample
from reed.encoders import ENCODERS
from reed.encoders.molecule import chemnet
from reed.encoders.molecule.chemnet import ChemNet
from reed.errors import ReedError

GOLDEN = Path(__file__).with_name("golden") / "chemnet.npz"
SMILES = [
    "CC(=O)Nc1ccc(O)cc1",
    "C#N",
    "C[N+](C)(C)CC([O-])=O",
    "O=C1c2ccccc2C(=O)N1C[C@@H](Br)[Si](C)(C)Cl",
    "F/C=C/I%10",
    "C" * 400,
]


def public_layers() -> list:
    """The layers of the public file, with the tensors of which the golden file has the output."""
    convolution = {"kernel_size": 4, "stride": 2, "padding": 0, "dilation": (1,), "bias": False}
    selu = {"activation": "selu", "padding": "same"}
    shapes = [
        {"weight": (32, 35, 4)},
        {"weight": (32, 32, 4)},
        *(
            {
                "weight_ih_l0": (4 * width, below),
                "weight_hh_l0": (4 * width, width),
                "bias_ih_l0": (4 * width,),
                "bias_hh_l0": (4 * width,),
            }
            for below, width in ((32, 128), (128, 512))
        ),
    ]
    states = [
        {name: drawn(f"{i}{name}", shape) for name, shape in table.items()}
        for i, table in enumerate(shapes)
    ]
    for table in states[2:]:  # open forget gates, without which the last state is that of padding
        width = table["weight_hh_l0"].shape[1]
        table["bias_ih_l0"][width : 2 * width] += 5.0
    return [
        ("Conv1d", (states[0], {"in_channels": 35, "out_channels": 32} | convolution, selu)),
        ("Conv1d", (states[1], {"in_channels": 32, "out_channels": 32} | convolution, selu)),
        ("LSTM", (states[2], {"input_size": 32}, {"reverse": True, "last": False})),
        ("LSTM", (states[3], {"input_size": 128}, {"reverse": True, "last": True})),
    ]


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    draws = np.random.default_rng(sum(name.encode())).normal(size=shape)
    scale = 0.5 if len(shape) == 3 else 0.04  # recurrent weights that do not amplify rounding
    return torch.from_numpy((scale * draws).astype(np.float32))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("chemnet") / "ChemNet_v0.13_pretrained.pt"
    torch.save(public_layers(), path)
    return str(path)


def loaded(path: str, **settings) -> ChemNet:
    encoder = ChemNet(weights=path, **settings)
    encoder.load("cpu")
    return encoder


def samples(*texts: str) -> list[dict]:
    return [{"molecule/smiles": text} for text in texts]


def test_features_equal_those_of_the_package_fcd(path):
    """Lengths even and odd, letters that ChemNet lacks, and one SMILES beyond the usual length."""
    want = np.load(GOLDEN)["out/features"]
    found = loaded(path).encode(samples(*SMILES))["sample"]
    assert found.shape == (6, 512) and found.dtype == np.float32 and np.ptp(want, 0).max() > 0.4
    np.testing.assert_allclose(found[:, ::4], want, atol=1e-5)


def test_features_do_not_depend_on_the_batch(path):
    """The package fcd pads a batch to its longest SMILES."""
    encoder = loaded(path)
    together = encoder.encode(samples(*SMILES))["sample"]
    for row, text in zip(together, SMILES, strict=True):
        np.testing.assert_allclose(encoder.encode(samples(text))["sample"][0], row, atol=1e-5)


def test_tokens_of_two_letters_come_first_and_others_are_unknown():
    named = [chemnet.TOKENS[number] for number in chemnet.tokens("ClC[Si]Br/I%9")]
    assert named == ["Cl", "C", "[", "Si", "]", "Br", "X", "I", "X", "X", "."]
    assert len(chemnet.TOKENS) == 35
    assert [chemnet.padded_length("C" * n) for n in (1, 349, 350)] == [350, 350, 351]


def test_files_of_something_else_are_refused(tmp_path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(ReedError, match="a.pt is not a ChemNet: it is no list of layers"):
        loaded(str(tmp_path / "a.pt"))
    torch.save(public_layers()[1:], tmp_path / "b.pt")
    with pytest.raises(ReedError, match="its layers are .'Conv1d', 'LSTM', 'LSTM'., not "):
        loaded(str(tmp_path / "b.pt"))
    layers = public_layers()
    layers[1][1][0]["weight"] = torch.zeros(32, 32, 5)
    torch.save(layers, tmp_path / "c.pt")
    with pytest.raises(ReedError, match=r"weight \(32, 32, 5\) instead of \(32, 32, 4\)"):
        loaded(str(tmp_path / "c.pt"))


class _Boom:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_a_hostile_file_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save([("Conv1d", _Boom())], tmp_path / "x.pt")
    with pytest.raises(ReedError, match="reading it would run code"):
        loaded("x.pt")
    assert not (tmp_path / "boom").exists()


def test_settings_and_what_is_known_without_weights(path):
    encoder = ENCODERS.get("chemnet")()
    assert encoder.reads == ("molecule/smiles",) and encoder.fields[0].shape == (512,)
    with pytest.raises(ReedError, match="chemnet.smiles is 'smiles'; name a column and field"):
        ChemNet(smiles="smiles")
    with pytest.raises(ReedError, match="pypi.org/project/fcd/1.2.2.*--set chemnet.weights=PATH"):
        ENCODERS.get("chemnet")().load("cpu")
    with pytest.raises(BadSample, match="the SMILES is empty"):
        loaded(path).encode(samples("C", ""))
    other = loaded(path, smiles="mine/text")
    want = loaded(path).encode(samples("CCO"))["sample"]
    np.testing.assert_array_equal(other.encode([{"mine/text": "CCO"}])["sample"], want)
