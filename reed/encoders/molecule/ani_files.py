"""Files of ANI potentials: folders of NeuroChem, and state dicts of torchani."""

from __future__ import annotations

import bz2
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reed import weights
from reed.encoders.molecule.ani_net import Ani, Layer, Networks, Terms
from reed.errors import ReedError

if TYPE_CHECKING:
    import torch

ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17}
CELU, NO_ACTIVATION = 9, 6  # as NeuroChem numbers them
PARTS = ("*.params", "train*/networks/ANN-*")  # of a folder of NeuroChem
ENTRIES = ("nodes", "blocksize", "activation", "weights", "biases")  # of a layer
CONSTANTS = ("Rcr", "Rca", "EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")
ASSIGNMENT = re.compile(r"(\w+)\s*=\s*(?:FILE:([\w.\-]+)\[(\d+)\]|([\w.+\-]+))\s*;")

# In torchani before 2.7 the layers are 0, 2, 4 and 6; later 0, 1, 2 and final_layer.
LAYER = re.compile(
    r"(?:^|\.)neural_networks\.(?:members\.)?(?:(\d+)\.)?(?:atomics\.)?([A-Z][a-z]?)"
    r"\.(?:layers\.)?(\d+|final_layer)\.(weight|bias)$"
)
# Entries of the descriptors, by their later and earlier names.
NAMES = {
    "EtaR": ("radial.eta", "radial_terms.eta", "EtaR"),
    "ShfR": ("radial.shifts", "radial_terms.shifts", "ShfR"),
    "EtaA": ("angular.eta", "angular_terms.eta", "EtaA"),
    "Zeta": ("angular.zeta", "angular_terms.zeta", "Zeta"),
    "ShfA": ("angular.shifts", "angular_terms.shifts", "ShfA"),
    "ShfZ": ("angular.sections", "angular_terms.sections", "ShfZ"),
}


def listing(folder: Path) -> tuple[Path, ...]:
    """Return the files of a NeuroChem folder that are read; empty if it is none."""
    constants, networks = (sorted(folder.glob(part)) for part in PARTS)
    return (constants[0], *networks) if len(constants) == 1 and networks else ()


def from_neurochem(folder: Path) -> Ani:
    """Read the folder of an ensemble: ``*.params`` and ``train0/networks/ANN-H.nnf`` and so on.

    Raises:
        ReedError: A file is missing, or is not what it should be.
    """
    path = listing(folder)[0]
    table = _constants(path)
    elements = tuple(table["Atyp"].strip("[]").replace(" ", "").split(","))
    try:
        numbers = {n: [float(x) for x in table[n].strip("[]").split(",")] for n in CONSTANTS}
    except ValueError as error:
        raise ReedError(
            f"cannot read the constants in {path}: {error}; download it again"
        ) from error

    # train0, train1, ... are the members of the ensemble.
    places = sorted(
        (p for p in folder.glob("train*") if p.is_dir()),
        key=lambda p: int(re.sub(r"\D", "", p.name) or 0),
    )
    members = tuple(
        {element: _network(place / "networks" / f"ANN-{element}.nnf") for element in elements}
        for place in places
    )
    return Ani(elements, _terms(path, numbers), members)


def _constants(path: Path) -> dict[str, str]:
    """Return the assignments of a .params file."""
    weights.check(path)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    table = {
        name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)
    }
    if missing := [name for name in (*CONSTANTS, "Atyp") if name not in table]:
        raise ReedError(
            f"{path} lacks {', '.join(missing)}; give the constants of an ANI potential"
        )
    return table


def _terms(path: Path, values: Mapping[str, list[float]]) -> Terms:
    several = {"ShfR", "ShfA", "ShfZ"}
    for name, numbers in values.items():
        if name not in several and len(numbers) != 1:
            raise ReedError(
                f"{path}: {name} has {len(numbers)} values, one is read; download it again"
            )
        if not np.isfinite(numbers).all():
            raise ReedError(f"{path}: {name} is not finite ({numbers}); download it again")

    # The two kinds of files share the names of NeuroChem here.
    return Terms(
        radial_cutoff=values["Rcr"][0],
        angular_cutoff=values["Rca"][0],
        radial_eta=values["EtaR"][0],
        radial_shifts=tuple(values["ShfR"]),
        angular_eta=values["EtaA"][0],
        zeta=values["Zeta"][0],
        angular_shifts=tuple(values["ShfA"]),
        sections=tuple(values["ShfZ"]),
    )


def _network(path: Path) -> list[Layer]:
    """Read the layers of one element: a packed text, and a file of floats per tensor."""
    import torch

    # Ahead of the packed text is a line that ends in "=".
    weights.check(path)
    content = path.read_bytes()
    try:
        text = bz2.decompress(content[content.index(b"BZh") :]).decode("ascii", "replace")
    except (ValueError, OSError) as error:
        raise ReedError(
            f"{path} is not a packed network of NeuroChem; download it again"
        ) from error

    # A block that lacks one of its entries is named by its number.
    layers: list[Layer] = []
    for block in re.findall(r"layer\s*\[(.*?)\n\s*\]", text, re.DOTALL):
        found = {m[1]: m for m in ASSIGNMENT.finditer(block)}
        try:
            *sizes, kind = (int(found[name][4]) for name in ("nodes", "blocksize", "activation"))
            files = [path.with_name(found[name][2]) for name in ("weights", "biases")]
        except (KeyError, ValueError, TypeError) as error:
            problem = f"layer {len(layers) + 1} in {path} has no valid {', '.join(ENTRIES)}"
            raise ReedError(f"{problem} ({error}); download it again") from error
        weight, bias = map(_floats, files, (sizes, sizes[:1]))
        layers.append((torch.from_numpy(weight), torch.from_numpy(bias)))
        last = sizes[0] == 1
        if kind != (NO_ACTIVATION if last else CELU):
            problem = f"layer {len(layers)} in {path} has activation {kind}"
            raise ReedError(
                f"{problem}; reed computes networks with CELU (9), and none (6) at the end"
            )
    if not layers:
        raise ReedError(f"{path} has no layers; download it again")
    return layers


def _floats(path: Path, shape: list[int]) -> np.ndarray:
    weights.check(path)
    size, want = path.stat().st_size, 4 * int(np.prod(shape))
    if size != want:
        raise ReedError(f"{path} has {size} bytes, {shape} needs {want}; download it again")
    numbers = np.fromfile(path, "<f4").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ReedError(f"{path} has numbers that are not finite; download it again")
    return numbers.reshape(shape)


def from_torchani(path: Path, elements: tuple[str, ...], cutoffs: tuple[float, float]) -> Ani:
    """Read the state dict of a model of torchani.

    Args:
        path: The file.
        elements: Elements of the model in its order, which a state dict does not name.
        cutoffs: Radial and angular cutoff, which it does not have.

    Raises:
        ReedError: The file is not an ANI potential with these elements.
    """
    state = weights.read(path)

    # The key of a layer says its member, its element and its place.
    members: dict[int, dict[str, dict[float, dict[str, torch.Tensor]]]] = {}
    for key, value in state.items():
        if match := LAYER.search(key):
            _check_tensor(path, key, value)
            place = float("inf") if match[3] == "final_layer" else float(match[3])
            networks = members.setdefault(int(match[1] or 0), {})
            networks.setdefault(match[2], {}).setdefault(place, {})[match[4]] = value
    for number, networks in members.items() or [(0, {})]:
        if (have := sorted(networks)) != sorted(elements):
            problem = f"{path} has networks of {', '.join(have) or 'no element'}"
            problem += f", not of {', '.join(elements)} (member {number})"
            raise ReedError(f"{problem}; give the weights of this model")

    _check_order(path, state, elements)
    values = {name: _entry(path, state, names) for name, names in NAMES.items()}
    terms = _terms(path, values | {"Rcr": [cutoffs[0]], "Rca": [cutoffs[1]]})
    return Ani(elements, terms, tuple(_sorted(path, members[number]) for number in sorted(members)))


def _check_tensor(path: Path, key: str, value: Any) -> None:
    if not hasattr(value, "flatten"):
        problem = f"{path}: {key} is of type {type(value).__name__}, not a tensor"
        raise ReedError(f"{problem}; download it again")


def _check_order(path: Path, state: Mapping[str, Any], elements: tuple[str, ...]) -> None:
    """Descriptors follow the order of the elements, of which later files have the numbers."""
    want = [ATOMIC_NUMBERS[element] for element in elements]
    if "atomic_numbers" not in state:
        return
    _check_tensor(path, "atomic_numbers", state["atomic_numbers"])
    if (have := state["atomic_numbers"].tolist()) != want:
        raise ReedError(f"{path} has the atomic numbers {have}, not {want}; give the model's own")


def _entry(path: Path, state: Mapping[str, Any], names: tuple[str, ...]) -> list[float]:
    """Return the numbers of the entry that ends in one of some names."""
    for key, value in state.items():
        if key.endswith(tuple(f"aev_computer.{name}" for name in names)):
            _check_tensor(path, key, value)
            return value.flatten().tolist()
    raise ReedError(f"{path} lacks aev_computer.{names[0]}; give the whole state dict of the model")


def _sorted(path: Path, networks: Mapping[str, Mapping[float, Mapping[str, Any]]]) -> Networks:
    try:
        return {
            element: [(layers[place]["weight"], layers[place]["bias"]) for place in sorted(layers)]
            for element, layers in networks.items()
        }
    except KeyError as error:
        raise ReedError(
            f"{path} lacks a {error.args[0]} of its networks; download it again"
        ) from error
