"""make bench-sample: CPU time of drawing samples, this checkout against another one, in turns.

    python tests/bench/sample.py OTHER-CHECKOUT [--rounds 5]

Nets have random weights. Each is drawn from in the default precision of its checkout, with one
thread, in a process of its own that counts only the drawing. The row of guided images compares
with a sampler that keeps its state in float64 and, as SiT's forward_with_cfg does, doubles the
batch at every step, on the same net in float32; the samples are equal to 1e-5, which is checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
import report
import start

import reed

SMALL = "width=96 layers=4 heads=8 sets=16 message=32 hidden=32 edge=32 size_emb=16"
GUIDED = "guided images, doubling every step"


def shaken(net: Any, by: float) -> Any:
    """The net with all its weights changed, so that none is zero."""
    import torch

    torch.manual_seed(0)
    for weight in net.parameters():
        weight.data += by * torch.randn_like(weight)
    return net.eval()


def images() -> tuple[Any, Callable[[], Any]]:
    """64 digits in 25 steps by the net of the digits, a SiT of 6 blocks."""
    from reed.cache.schema import Field
    from reed.domains.image import ImageDomain, SampleOptions

    shape = {"patch_size": 2, "hidden_size": 64, "depth": 6, "num_heads": 4}
    fields = {"x": Field("x", "data", (1, 8, 8)), "label": Field("label", "label", ())}
    domain = ImageDomain(classes=10, net_settings=shape)
    net = shaken(domain.net(fields), 0.05)
    return net, lambda: domain.generate(net, fields, range(64), SampleOptions(steps=25))


def molecules(shape: dict[str, int], num: int, most: int, steps: int) -> tuple[Any, Callable]:
    """Molecules of a third of `most` atoms to `most`, each size as likely."""
    from reed.domains.molecule import MoleculeDomain, MoleculeOptions
    from reed.nets.semla import Semla, SemlaConfig

    domain = MoleculeDomain(sizes=tuple(range(most // 3, most + 1)))
    net = shaken(Semla(SemlaConfig(**shape)), 0.02)
    return net, lambda: domain.generate(net, {}, range(num), MoleculeOptions(steps=steps))


def designs(num: int, length: int, steps: int) -> tuple[Any, Callable]:
    """Designs for one random backbone by the net of REED's recipe."""
    import numpy as np

    from reed.domains.protein import DesignOptions, ProteinDomain, Structure
    from reed.nets.mpnn import MPNN, MPNNConfig

    rng, place = np.random.default_rng(0), np.arange(length)
    ca = (rng.standard_normal((length, 3)) * 2.2).cumsum(0)
    atoms = (ca[:, None] + rng.standard_normal((length, 4, 3))).astype(np.float32)
    backbone = Structure("random", atoms, place % 20, place, 0 * place)
    options = DesignOptions((backbone,), each=num, steps=steps)
    net = shaken(MPNN(MPNNConfig()), 0.02)
    return net, lambda: ProteinDomain().generate(net, {}, range(num), options)


WAYS: dict[str, Callable[[], tuple[Any, Callable]]] = {
    "64 images, 25 steps": images,
    "64 molecules of 6 to 20 atoms, small net, 5 steps": lambda: molecules(
        {name: int(n) for name, n in (word.split("=") for word in SMALL.split())}, 64, 20, 5
    ),
    "12 molecules of 15 to 45 atoms, published net, 1 step": lambda: molecules({}, 12, 45, 1),
    "2 designs of 60 residues, 20 steps": lambda: designs(2, 60, 20),
    "2 designs of 40 residues, 500 steps": lambda: designs(2, 40, 500),
}


def drawn(name: str) -> float:
    """CPU seconds of one way in the default precision."""
    import torch

    from reed import precision as precisions

    torch.set_num_threads(1)
    net, draw = WAYS[name]()
    precision = precisions.pick("auto", "cpu")
    if precision == "fp64":
        precisions.in_double(net)
    with precisions.computing("cpu", precision):
        began = process_time()
        draw()
        return process_time() - began


def doubled() -> tuple[float, float]:
    """CPU seconds of ours, and of the sampler that doubles every step; guided on [0, 0.7]."""
    import torch

    from reed.flows.samplers import Guidance, guided_velocity, ode
    from reed.precision import computing

    torch.set_num_threads(1)
    net, guidance, y = images()[0], Guidance(1.8, 0.0, 0.7), torch.arange(64) % 10
    noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def public(x: Any, t: float, _: float) -> Any:
        labels, times = torch.cat([y, torch.full_like(y, 10)]), torch.full((128,), t)
        label, null = net(torch.cat([x, x]).float(), times, labels)[0].double().chunk(2)
        return null + (guidance.scale if guidance.is_on(t) else 1.0) * (label - null)

    took, found = [], []
    with computing("cpu", "fp32"):
        for velocity in (guided_velocity(net, y, 10, guidance), public):
            began = process_time()
            found.append(ode(velocity, noise, 25))
            took.append(process_time() - began)
    off = float((found[0] - found[1]).abs().max() / found[1].abs().max())
    assert off < 1e-5, f"the samples differ by {off:.2g} of the largest value"
    return took[0], took[1]


def child(package: Path, which: str) -> Any:
    """Measure with a package, in a process of its own."""
    own = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]"
    code = f"{own}; sys.argv[:] = sys.argv[1:]; import runpy"
    code += f"; runpy.run_path({str(Path(__file__).resolve())!r}, run_name='__main__')"
    words = [sys.executable, "-c", code, "sample.py", "--one", which]
    env = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    # The folder it runs in comes first on the path.
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=env, cwd=package)
    used, found = json.loads(done.stdout.splitlines()[-1])
    assert Path(used).is_relative_to(package), f"{used} was measured instead of {package}"
    return found


@click.command()
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option("--rounds", default=5, show_default=True)
@click.option("--one", hidden=True)
def main(other: Path, rounds: int, one: str | None) -> None:
    """Draw in turns, print the ratios, write runs/bench/sample.json."""
    if one:  # a process of its own
        found = doubled() if one == GUIDED else {name: drawn(name) for name in WAYS}
        click.echo(json.dumps([reed.__file__, found]))
        return

    took: dict[str, list[Any]] = {"other": [], "this": [], GUIDED: []}
    with tempfile.TemporaryDirectory() as temp:
        places = {"other": other, "this": start.HERE}
        packages = {name: start.installed(path, Path(temp) / name) for name, path in places.items()}
        for _ in range(rounds):
            for name, package in packages.items():
                took[name].append(child(package, "all"))
            took[GUIDED].append(child(packages["this"], GUIDED))

    figures = []
    for way in WAYS:
        values = {name: [found[way] for found in took[name]] for name in packages}
        figures += [report.figure(f"{n}: {way}", v, "CPU s") for n, v in values.items()]
        figures.append(report.ratios(values, "other", "this"))
    ours, theirs = (list(each) for each in zip(*took[GUIDED], strict=True))
    figures.append(report.ratios({"ours": ours, GUIDED: theirs}, GUIDED, "ours"))
    report.publish("sample", "CPU time of drawing, another checkout and this one", figures)


if __name__ == "__main__":
    main()
