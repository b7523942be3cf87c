"""ESM-IF1: the states of an inverse folding model on a backbone, one vector per residue.

Source: Hsu et al., 2022, ICML; weights and code of fair-esm 2.0.0 (MIT).
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
from reed.extras import pip_install
from reed.precision import computing
from reed.state_dict import fill
from reed.weights import Origin

DIM = 512  # channels of the public model
BETWEEN = 10  # empty residues between chains, as in fair-esm's multichain_util
FILE = "esm_if1_gvp4_t16_142M_UR50.pt"
ORIGIN = Origin(files=(FILE,), url=f"https://dl.fbaipublicfiles.com/fair-esm/models/{FILE}")
# Names that differ between the checkpoint and the code; see esm/pretrained.py of fair-esm.
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
    """Encoder states of ESM-IF1, computed from N, CA and C: one vector per residue.

    Its field is ``tokens`` [L, dim]. The model sees no letters of the sequence. The atoms are
    centred first, because the model is invariant to rotations about the origin only. A residue that
    lacks one of the three atoms is masked, not treated as padding.

    Attributes:
        weights: The public .pt file, which you download yourself, because no hub hosts it.
        dim: Channels of the model.
        coords: Field of the atoms, to read others than the source's, such as ``esmfold/coords``.
        precision: ``fp32`` or ``tf32``.
        batch_size: Samples per call of ``encode``.
    """

    libraries, extra = ("esm",), "proteins"

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
        """The atoms, the sequence and the chain of each residue."""
        return (self.coords, "sequence", "chain")

    @property
    def fields(self) -> tuple[Field, ...]:
        """The single field ``tokens``."""
        return (Field("tokens", "token", (None, self.dim), "int8"),)

    def revision(self) -> str:
        """Return the weights, the library, the precision, and how atoms are centred and masked."""
        found = self._find()
        version = pre.version("fair-esm", "proteins")
        return f"{found.sha256[:16]} {version} {self.precision} centred masked1"

    def load(self, device: str) -> None:
        """Load the encoder onto ``device``.

        Raises:
            ReedError: The file is not an ESM-IF1 with ``dim`` channels, or fair-esm is missing.
        """
        path = self._find().files[0]
        table = files.read(path, allow=(Namespace,))
        args, state = table.get("args"), table.get("model")
        if not isinstance(args, Namespace) or not isinstance(state, Mapping):
            raise ReedError(f"{path} is not an ESM-IF1: it lacks 'args' or 'model'")
        if (dim := getattr(args, "encoder_embed_dim", None)) != self.dim:
            raise ReedError(f"{path} has {dim} channels, esm-if1.dim is {self.dim}; set dim={dim}")

        # The "version" entries of the checkpoint are not weights; the model keeps its own.
        model_class, converter, alphabet = library()
        model = model_class(args, alphabet)
        own = {rename(key): value for key, value in state.items() if "version" not in key}
        buffers = {k: v for k, v in model.state_dict().items() if "version" in k}
        fill(model, own | buffers, str(path))
        self._encoder = model.encoder.float().requires_grad_(False).eval().to(device)
        self._convert, self._device = converter(alphabet), device

    def encode(self, samples: Sequence[dict[str, Any]]) -> Mapping[str, Values]:
        """Return ``tokens`` [L, dim] of each sample, float32.

        Raises:
            BadSample: No residue of a sample has all three atoms.
        """
        prepared = [_prepared(sample, self.coords) for sample in samples]
        with computing(self._device, self.precision), quiet():
            batch = [(coords, None, None) for coords, _ in prepared]
            coords, confidence, _, _, padding = self._convert(batch, device=self._device)
            output = self._encoder(coords, padding, confidence, return_all_hiddens=False)
            states = output["encoder_out"][0].float().cpu().numpy()  # [T, B, dim]

        # The first state is that of the begin token.
        return {"tokens": [states[1 + kept, i] for i, (_, kept) in enumerate(prepared)]}


def _prepared(sample: dict[str, Any], address: str) -> tuple[np.ndarray, np.ndarray]:
    """Return centred atoms with empty residues between chains, and the indices of real residues.

    Args:
        sample: The sample.
        address: Field of the atoms.

    Returns:
        Atoms [T, 3, 3], and the L indices into them that are residues of the sample.
    """
    atoms = backbone({"coords": sample[address], "sequence": sample["sequence"]})[:, :3]
    whole = np.asarray(np.isfinite(atoms).all((1, 2)))
    if not whole.any():
        raise BadSample("no residue has N, CA and C")

    # In float64, and by the CA of whole residues alone, so that a shift of all atoms cancels out.
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
    """Return the name of a checkpoint's tensor in fair-esm's code."""
    for old, new in RENAMED.items():
        key = key.replace(old, new)
    return key


def library() -> tuple[Any, Any, Any]:
    """Import fair-esm's model class and batch converter of ESM-IF1, and their alphabet.

    fair-esm needs torch_geometric, torch_scatter and an old biotite for one class, one sum and a
    file parser. Whether these are installed or not, the first two are replaced by equivalent code
    of this package and biotite, which is not used, by placeholders. Nothing of this remains in
    ``sys.modules``.

    Raises:
        ReedError: fair-esm is not installed, or another package hides it.
    """
    pre.version("fair-esm", "proteins")

    # The imports fail without the stand-ins, which are removed again afterwards.
    with _stand_ins(), quiet():
        try:
            alphabet = import_module("esm.data").Alphabet.from_architecture("invariant_gvp")
            model = import_module("esm.inverse_folding.gvp_transformer").GVPTransformerModel
            converter = import_module("esm.inverse_folding.util").CoordBatchConverter
        except (ImportError, AttributeError) as error:
            raise ReedError(
                f"cannot import ESM-IF1 from fair-esm ({error}); the package `esm` of ESM3 has the "
                f"same import name: uninstall it, and: {pip_install('proteins')}"
            ) from error
    return model, converter, alphabet


@contextmanager
def quiet() -> Generator[None]:
    """Silence the warnings of an old library about deprecated functions of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _stand_ins() -> Generator[None]:
    """Provide the modules that ESM-IF1 imports, and restore the original ones afterwards."""

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
    """Make the stand-in modules, by name."""
    from reed.encoders.protein.message_passing import message_passing, scatter

    names = "AtomArray filter_backbone get_chains get_residues ProteinSequence".split()
    unused: dict[str, Any] = {name: None for name in names}  # only imported, or in annotations
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

    # A parent comes before its children, which become its attributes as after an import.
    modules = {}
    for name, content in contents.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(content)
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, modules[name])
    return modules
