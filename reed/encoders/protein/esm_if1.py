"""ESM-IF1: what an inverse folding model makes of a backbone, per residue.

Source: Hsu et al., 2022, ICML; fair-esm 2.0.0, whose weights and code these are (MIT).
"""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from reed import weights as files
from reed.build.shard import BadSample, Values
from reed.cache.schema import Field
from reed.encoders import ENCODERS
from reed.encoders import pretrained as pre
from reed.encoders.base import PublicWeights
from reed.encoders.image.batches import check_precision
from reed.encoders.protein.chain import backbone, segments
from reed.errors import ReedError
from reed.precision import computing
from reed.weights import Origin

DIM = 512  # of the public model
BETWEEN = 10  # empty residues between chains, as in fair-esm's multichain_util
FILE = "esm_if1_gvp4_t16_142M_UR50.pt"
ORIGIN = Origin(files=(FILE,), url=f"https://dl.fbaipublicfiles.com/fair-esm/models/{FILE}")
# Names that were changed between the checkpoint and the code: fair-esm, esm/pretrained.py.
RENAMED = {
    "W_v": "embed_graph.embed_node",
    "W_e": "embed_graph.embed_edge",
    "embed_scores.0": "embed_confidence",
    "embed_score.": "embed_graph.embed_confidence.",
    "seq_logits_projection.": "",
    "embed_ingraham_features": "embed_dihedrals",
    "embed_gvp_in_local_frame.0": "embed_gvp_output",
    "embed_features_in_local_frame.0": "embed_gvp_input_features",
}
SHADOWED = ("torch_geometric", "torch_scatter", "biotite", "esm.inverse_folding")


@ENCODERS.register("esm-if1")
@dataclass
class EsmIf1(PublicWeights):
    """The encoder states of ESM-IF1 on N, CA and C; it sees no letter.

    weights: the public .pt file (no hub has it); dim: its channels; coords: the column of the
    atoms, of another one than the source's ("esmfold/coords"); precision: fp32 or tf32.

    tokens: [L, dim]. The atoms are centred first: the model is invariant to rotations about the
    origin only. A residue that lacks one of the three is given as masked, not as padding.
    """

    weights: str | None = None
    dim: int = DIM
    coords: str = "coords"
    precision: str = "fp32"
    batch_size: int = 4

    name = "esm-if1"
    licence = "MIT"
    origin = ORIGIN

    def __post_init__(self) -> None:
        check_precision("esm-if1", self.precision)
        if self.precision == "bf16":
            raise ReedError("esm-if1.precision cannot be 'bf16': geometry needs fp32 or tf32")

    @property
    def reads(self) -> tuple[str, ...]:
        """The atoms, and which chain they are of."""
        return (self.coords, "sequence", "chain")

    @property
    def fields(self) -> tuple[Field, ...]:
        """One, per residue."""
        return (Field("tokens", "token", (None, self.dim), "int8"),)

    def revision(self) -> str:
        """The weights, the centring, the masking and the library."""
        found = self._find()
        return f"{found.sha256[:16]} {pre.version('fair-esm')} {self.precision} centred masked1"

    def load(self, device: str) -> None:
        """The model; ReedError where the file is none of ESM-IF1."""
        path = self._find().files[0]
        table = files.read(path, allow=(Namespace,))
        args, state = table.get("args"), table.get("model")
        if not isinstance(args, Namespace) or not isinstance(state, Mapping):
            raise ReedError(f"{path} is no ESM-IF1: it lacks 'args' or 'model'")
        if (dim := getattr(args, "encoder_embed_dim", None)) != self.dim:
            raise ReedError(f"{path} has {dim} channels, esm-if1.dim is {self.dim}; set dim={dim}")
        model_class, converter, alphabet = library()
        model = model_class(args, alphabet)
        own = {rename(key): value for key, value in state.items() if "version" not in key}
        buffers = {k: v for k, v in model.state_dict().items() if "version" in k}
        files.fill(model, own | buffers, str(path))
        self._encoder = model.encoder.float().requires_grad_(False).eval().to(device)
        self._convert, self._device = converter(alphabet), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """tokens [L, dim] of each sample, float32; BadSample where it has no whole residue."""
        given = [_prepared(sample, self.coords) for sample in samples]
        found: list[np.ndarray] = []
        with computing(self._device, self.precision), quiet():
            batch = [(coords, None, None) for coords, _ in given]
            coords, confidence, _, _, padding = self._convert(batch, device=self._device)
            output = self._encoder(coords, padding, confidence, return_all_hiddens=False)
            states = output["encoder_out"][0].float().cpu().numpy()  # [T, B, dim]
        for row, (_, kept) in enumerate(given):
            found.append(states[1 + kept, row])
        return {"tokens": found}


def _prepared(sample: dict[str, Any], place: str) -> tuple[np.ndarray, np.ndarray]:
    """Atoms [T, 3, 3] centred, chains with empty residues between, and the rows that are real."""
    atoms = backbone({"coords": sample[place], "sequence": sample["sequence"]})[:, :3]
    whole = np.asarray(np.isfinite(atoms).all((1, 2)))
    if not whole.any():
        raise BadSample("no residue has N, CA and C")
    # float64, and CA of whole residues alone, so that a shift of all atoms leaves no trace
    centred = atoms - atoms[whole, 1].mean(0, dtype=np.float64)
    centred = np.where(whole[:, None, None], centred, np.inf).astype(np.float32)
    parts, kept, start = [], [], 0
    for part in segments(sample):
        parts += [np.full((BETWEEN, 3, 3), np.nan, np.float32)] if start else []
        start += BETWEEN if start else 0
        parts.append(centred[part])
        kept.append(start + np.arange(len(parts[-1])))
        start += len(parts[-1])
    return np.concatenate(parts), np.concatenate(kept)


def rename(key: str) -> str:
    """The name in fair-esm's code of a tensor of the checkpoint."""
    for old, new in RENAMED.items():
        key = key.replace(old, new)
    return key


def library() -> tuple[Any, Any, Any]:
    """fair-esm's model class and batch converter of ESM-IF1, and their alphabet.

    Its package needs torch_geometric, torch_scatter and an old biotite for one class, one sum and
    a parser of files. The first two are replaced by what they compute here, the last is not used,
    whether they are installed or not; nothing of this is left behind in sys.modules.
    """
    pre.version("fair-esm")
    with _stand_ins(), quiet():
        try:
            alphabet = import_module("esm.data").Alphabet.from_architecture("invariant_gvp")
            model = import_module("esm.inverse_folding.gvp_transformer").GVPTransformerModel
            converter = import_module("esm.inverse_folding.util").CoordBatchConverter
        except (ImportError, AttributeError) as error:
            raise ReedError(
                f"cannot import ESM-IF1 from fair-esm ({error}); the package `esm` of ESM3 has the "
                "same import name: uninstall it, and: pip install 'reed[proteins]'"
            ) from error
    return model, converter, alphabet


@contextmanager
def quiet() -> Generator[None]:
    """Without the warnings of an old library about functions that newer torch will drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _stand_ins() -> Generator[None]:
    """The modules that importing ESM-IF1 asks for; what was there comes back afterwards."""

    def shadowed() -> list[str]:
        return [n for n in sys.modules if n.startswith(SHADOWED) and n.split(".")[0] != "reed"]

    before = {name: sys.modules.pop(name) for name in shadowed()}
    sys.modules.update(_modules())
    try:
        yield
    finally:
        for name in shadowed():
            del sys.modules[name]
        sys.modules.update(before)


def _modules() -> dict[str, ModuleType]:
    from reed.encoders.protein.message_passing import message_passing, scatter

    names = "AtomArray filter_backbone get_chains get_residues ProteinSequence".split()
    unused: dict[str, Any] = {name: None for name in names}  # imported, or in annotations
    contents: dict[str, dict[str, Any]] = {
        "torch_geometric": {},
        "torch_geometric.nn": {"MessagePassing": message_passing()},
        "torch_scatter": {"scatter": scatter, "scatter_add": scatter},
        "biotite": {},
        "biotite.sequence": unused,
        "biotite.structure": unused,
        "biotite.structure.residues": unused,
        "biotite.structure.io": {"pdb": None, "pdbx": None},
    }
    found = {}
    for name, content in contents.items():
        found[name] = ModuleType(name)
        vars(found[name]).update(content)
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(found[parent], child, found[name])
    return found
