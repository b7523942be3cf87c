"""ESM-C from both kinds of files: equal to the package esm and to transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reed import config
from reed.chem.protein import ALPHABET
from reed.encoders import ENCODERS
from reed.encoders.protein import esmc_net
from reed.encoders.protein.esm2 import token
from reed.encoders.protein.esmc import Card, EsmC
from reed.errors import ReedError
from reed.weights import Origin

GOLDEN = Path(__file__).with_name("golden") / "esmc_tiny.npz"
LAYERS, WIDTH, INNER = 3, 128, 512
CARD = Card("esmc-tiny", Origin("nobody/esmc-tiny"), LAYERS, WIDTH, "MIT")
SEQUENCES = ("MKTAYIAKQRQISFVKSHFSRQ", "GSHMXPEEKAARLFIEALEKGDPELMRKVISPDTRMEDNGREFTG", "ACD")


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a public .pth file, as the package esm has them."""
    block = {
        "attn.layernorm_qkv.0.weight": (WIDTH,),
        "attn.layernorm_qkv.0.bias": (WIDTH,),
        "attn.layernorm_qkv.1.weight": (3 * WIDTH, WIDTH),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.q_ln.weight": (WIDTH,),
        "attn.k_ln.weight": (WIDTH,),
        "ffn.0.weight": (WIDTH,),
        "ffn.0.bias": (WIDTH,),
        "ffn.1.weight": (2 * INNER, WIDTH),
        "ffn.3.weight": (WIDTH, INNER),
    }
    names = {f"transformer.blocks.{i}.{k}": s for i in range(LAYERS) for k, s in block.items()}
    head = {"0.weight": (WIDTH, WIDTH), "0.bias": (WIDTH,), "2.weight": (WIDTH,)}
    head |= {"2.bias": (WIDTH,), "3.weight": (64, WIDTH), "3.bias": (64,)}
    names |= {f"sequence_head.{name}": shape for name, shape in head.items()}
    return names | {"embed.weight": (64, WIDTH), "transformer.norm.weight": (WIDTH,)}


def tensors() -> dict[str, torch.Tensor]:
    """The weights of which the golden file has the output."""
    state = {}
    for name, shape in shapes().items():
        draw = 0.15 * np.random.default_rng(sum(name.encode())).normal(size=shape)
        is_norm = "ln" in name or "norm" in name or name.endswith("ffn.0.weight")
        center = 1.0 if is_norm and name.endswith("weight") and len(shape) == 1 else 0.0
        state[name] = torch.from_numpy((draw + center).astype(np.float32))
    return state


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """A .pth file of the package esm."""
    path = tmp_path_factory.mktemp("esmc") / "esmc_tiny_2024_12_v0.pth"
    torch.save(tensors(), path)
    return str(path)


def loaded(path: str, **settings) -> EsmC:
    encoder = config.build(EsmC, {"card": CARD, "weights": path, **settings}, "esmc")
    encoder.load("cpu")
    return encoder


def sample(*sequences: str) -> dict:
    chain = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    return {"sequence": "".join(sequences), "chain": chain}


@pytest.mark.parametrize(("layer", "name"), [(0, "last"), (3, "last"), (1, "layer1")])
def test_tokens_equal_the_package_esm_alone_and_in_a_batch(path, layer, name):
    encoder, golden = loaded(path, layer=layer), np.load(GOLDEN)
    together = encoder.encode([sample(s) for s in SEQUENCES])
    for i, sequence in enumerate(SEQUENCES):
        want = golden[f"out/{name}/{i}"]
        assert want.shape == (len(sequence), WIDTH // 4) and want.std() > 0.3
        alone = encoder.encode([sample(sequence)])
        for found in (together["tokens"][i], alone["tokens"][0]):
            assert found.shape == (len(sequence), WIDTH) and found.dtype == np.float32
            np.testing.assert_allclose(found[:, ::4], want, atol=5e-5, rtol=1e-5)
        np.testing.assert_allclose(together["mean"][i][::4], want.mean(0), atol=5e-5)


def of_transformers(folder: Path):
    """A folder that transformers wrote, and its model; the weights are those of the .pth file."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "EsmcForMaskedLM"):
        pytest.skip("this version of transformers has no ESM-C")
    settings = transformers.EsmcConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        intermediate_size=INNER,
    )
    torch.manual_seed(0)
    model = transformers.EsmcForMaskedLM(settings).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.05)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("layer", [0, 2])
def test_a_folder_of_transformers_gives_what_transformers_does(tmp_path, layer):
    model = of_transformers(tmp_path)
    found = loaded(str(tmp_path), layer=layer).encode([sample(s) for s in SEQUENCES])
    for sequence, tokens in zip(SEQUENCES, found["tokens"], strict=True):
        ids = torch.tensor([[0, *map(token, sequence), 2]])
        with torch.no_grad():
            output = model.esmc(ids, output_hidden_states=True)
        states = output.hidden_states[layer] if layer else output.last_hidden_state
        np.testing.assert_allclose(tokens, states[0, 1:-1], atol=5e-5)


def test_the_bare_model_of_transformers_and_one_file_of_it_are_read_too(tmp_path):
    model = of_transformers(tmp_path / "whole")
    model.esmc.save_pretrained(tmp_path / "bare")
    one = loaded(str(tmp_path / "whole")).encode([sample(SEQUENCES[0])])["tokens"][0]
    for place in ("bare", "bare/model.safetensors"):
        other = loaded(str(tmp_path / place)).encode([sample(SEQUENCES[0])])["tokens"][0]
        np.testing.assert_array_equal(one, other)


def test_chains_of_one_sample_do_not_see_one_another(path):
    encoder = loaded(path)
    both = encoder.encode([sample(*SEQUENCES[:2])])
    parts = [encoder.encode([sample(s)])["tokens"][0] for s in SEQUENCES[:2]]
    np.testing.assert_allclose(both["tokens"][0], np.concatenate(parts), atol=2e-5)
    np.testing.assert_allclose(both["mean"][0], np.concatenate(parts).mean(0), atol=2e-5)


def test_letters_are_those_of_the_alphabet():
    """The package's own list of tokens begins with four special ones; 33 of 64 rows are used."""
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCX"]
    assert all(vocabulary[token(letter)] == letter for letter in ALPHABET)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_other_precisions_are_near_also_far_along_the_chain(path, precision):
    """A position times a rounded frequency would be another angle."""
    long = sample("".join(np.random.default_rng(0).choice(list(ALPHABET[:20]), 1000)))
    want = loaded(path).encode([long])["tokens"][0]
    found = loaded(path, precision=precision).encode([long])["tokens"][0]
    norms = np.linalg.norm(want, axis=1) * np.linalg.norm(found, axis=1)
    assert ((want * found).sum(1) / norms).min() > 0.999


def test_files_of_something_else_are_refused(tmp_path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(ReedError, match="x.pth is not an ESM-C"):
        loaded(str(tmp_path / "x.pth"))
    state = tensors()
    state["transformer.blocks.1.ffn.9.weight"] = state.pop("transformer.blocks.1.ffn.1.weight")
    save_file(state, tmp_path / "y.safetensors")
    with pytest.raises(ReedError, match=r"1 missing \(.*1.ffn.1.weight\).*unexpected .*ffn.9"):
        loaded(str(tmp_path / "y.safetensors"))


def test_a_model_of_another_size_is_refused(path):
    encoder = ENCODERS.get("esmc-300m")(weights=path)
    with pytest.raises(ReedError, match=r"\(3, 128\) layers and ch.* has \(30, 960\); name"):
        encoder.load("cpu")


@pytest.mark.parametrize(("name", "layers", "dim"), [("300m", 30, 960), ("600m", 36, 1152)])
def test_the_public_sizes(name, layers, dim):
    encoder = ENCODERS.get(f"esmc-{name}")()
    tokens, mean = encoder.fields
    assert (tokens.shape, mean.shape) == ((None, dim), (dim,)) and encoder.card.layers == layers
    assert encoder.origin.repo == f"EvolutionaryScale/esmc-{name}-2024-12"
    assert encoder.origin.files == (f"data/weights/esmc_{name}_2024_12_v0.pth",)
    sizes = esmc_net.shapes(dim, layers)
    inner = {960: 2560, 1152: 3072}[dim]
    assert sizes[f"transformer.blocks.{layers - 1}.ffn.1.weight"] == (2 * inner, dim)
    assert dim // esmc_net.CHANNELS == {960: 15, 1152: 18}[dim]  # heads


def test_settings_that_cannot_be(path):
    with pytest.raises(ReedError, match="esmc-300m.layer is 31; it has layers 1 to 30, 0 is the"):
        ENCODERS.get("esmc-300m")(layer=31)
    with pytest.raises(ReedError, match="esmc-600m.precision cannot be 'fp8'"):
        ENCODERS.get("esmc-600m")(precision="fp8")
    revisions = {loaded(path, **s).revision() for s in ({}, {"layer": 1}, {"precision": "bf16"})}
    assert len(revisions) == 3


def test_the_hub_folder_itself_is_found(tmp_path):
    encoder = ENCODERS.get("esmc-300m")(weights=str(tmp_path))
    place = tmp_path / encoder.origin.files[0]
    place.parent.mkdir(parents=True)
    torch.save(tensors(), place)
    with pytest.raises(ReedError, match="esmc_300m_2024_12_v0.pth has .3, 128. layers"):
        encoder.load("cpu")
