"""Draw docs/images/shares.png, the share A(t) of samples that have z: python docs/share_figure.py."""

from pathlib import Path

import matplotlib
import torch

from reed.guides.when import When

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402

LAWS = {
    "start": "start",
    "constant": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "sigmoid": "sigmoid",
    "loglinear": "loglinear",
    "cutoff 0.2 to 0.7": {"kind": "cutoff", "low": 0.2, "high": 0.7},
    "never": "never",
}
STYLES = {"start": "--", "never": "--", "cutoff 0.2 to 0.7": "-."}


def main() -> None:
    """Draw one line per law, from noise on the left to data on the right."""
    times = torch.linspace(0, 1, 401, dtype=torch.float64)
    figure, axes = pyplot.subplots(figsize=(6.5, 3.6), layout="constrained")
    for name, law in LAWS.items():
        share = When.of(law, name).share(times)
        axes.plot(times, share, STYLES.get(name, "-"), label=name)
    axes.set_xlim(1, 0)
    axes.set_xlabel("time t: 1 is noise, 0 is data")
    axes.set_ylabel("A(t), share of samples with z")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(Path(__file__).parent / "images" / "shares.png", dpi=120)


if __name__ == "__main__":
    main()
