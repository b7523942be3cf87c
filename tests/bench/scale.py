"""make bench-scale: what 1 to 512 nodes ask of storage and network. Nothing is timed.

It is arithmetic on: the sizes of records, which are those of the tar files that a build writes; the
order of training (reed/cache/order.py), of which one node's samples of an epoch are looked at; and
the assumptions in capitals below. Samples are ImageNet's: latents, a label and DINOv2-B tokens
(256 x 768) in one of several codecs, each a column.

With --write, the tables in docs/measured.md and the figure in docs/images are made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from reed.build import size
from reed.cache import files, reader
from reed.cache.order import BLOCK, Order
from reed.cache.schema import Field

DOCS = Path(__file__).parents[2] / "docs"
SAMPLES, SHARD, COLUMNS = 1_281_167, 1024, 3  # ImageNet; samples per shard; latents, label, tokens
CODECS = ("float16", "int8", "pca:128", "pca:128+int8", "pca:16+int8")
NODES = tuple(2**n for n in range(10))
GPUS, RATE, BATCH = 8, 400, 32  # per node; images/s per GPU, the bar of stage two; batch per GPU

# What stores and networks give, in bytes/s or requests/s. S3: "Best practices design patterns" of
# the user guide, GETs per prefix before it scales; Google Cloud Storage: "Quotas & limits", reads
# per bucket before it scales. The two network links are common sizes, not measured.
S3_GETS, GCS_GETS = 5_500, 5_000
LINKS = {"25 Gb/s": 25e9 / 8, "100 Gb/s": 100e9 / 8}


def record_bytes(codec: str) -> float:
    """Bytes of a sample's three records in their tar files."""
    fields = (
        Field("moments", "moments", (8, 32, 32), "float16"),
        Field("label", "label", (), "int64"),
        Field("tokens", "token", (256, 768), codec),
    )
    return sum(size._measured("tar", reader.parts_of([field]))[0] for field in fields)


@dataclass(frozen=True)
class Share:
    """What a node asks for in an epoch, per sample of its own, in each column.

    Attributes:
        gets: Requests, if neighbouring records of a batch of a process are one request.
        moved: Records that come if pages of 16 are kept, over those that it needs.
        shards: Shards that one of its processes opens.
    """

    gets: float
    moved: float
    shards: int


def share_of(nodes: int) -> Share:
    """Look at the samples of the first node in the first epoch, in the order of training."""
    order, own = Order(SAMPLES, nodes * GPUS * BATCH, seed=0), GPUS * BATCH
    steps = int(order.steps)
    rows = np.stack([order.batch_at(step)[:own] for step in range(steps)])

    # Each process asks for its own part of a batch, sorted within every shard.
    parts = np.sort(rows.reshape(-1, BATCH), axis=1)
    follows = (np.diff(parts) == 1) & (parts[:, 1:] % SHARD != 0)
    pages = len(np.unique(rows // BLOCK)) * BLOCK
    shards = len(np.unique(rows[:, :BATCH] // SHARD))
    return Share(1 - follows.sum() / rows.size, pages / rows.size, shards)


def codec_rows() -> list[str]:
    """A line per codec: what a node needs, and from how many nodes on a link is too small."""
    lines = ["| codec of the tokens | bytes per sample | a node | 512 nodes | 25 Gb/s | 100 Gb/s |"]
    lines.append("|---|---|---|---|---|---|")
    for codec in CODECS:
        each = record_bytes(codec)
        node = each * RATE * GPUS
        used = [f"{node / link:.0%}" for link in LINKS.values()]
        sizes = f"{each:,.0f} | {node / 1e6:,.0f} MB/s | {node * NODES[-1] / 1e9:,.0f} GB/s"
        lines.append(f"| `{codec}` | {sizes} | {' | '.join(used)} |")
    return lines


def node_rows(shares: dict[int, Share]) -> list[str]:
    """A line per number of nodes: requests of a column, copies, and open files."""
    head = "| nodes | steps per epoch | an epoch | requests/s per column | moved with copies"
    lines = [f"{head} | open shards per node |", "|---|---|---|---|---|---|"]
    limit = files.most_open() // COLUMNS
    for nodes, share in shares.items():
        images = nodes * GPUS * RATE
        steps, seconds = SAMPLES / (nodes * GPUS * BATCH), size.duration(SAMPLES / images)
        gets, opened = share.gets * images, GPUS * COLUMNS * min(limit, share.shards)
        cells = (
            nodes,
            f"{steps:,.0f}",
            seconds,
            f"{gets:,.0f}",
            f"{share.moved:.1f}×",
            f"{opened:,}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def draw(path: Path) -> None:
    """Draw bytes/s of all nodes together, by codec."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 3.6), layout="constrained")
    for codec in CODECS:
        rates = [record_bytes(codec) * RATE * GPUS * nodes / 1e9 for nodes in NODES]
        axes.loglog(NODES, rates, marker="o", markersize=3, label=codec)
    for name, link in LINKS.items():
        rates = [link * nodes / 1e9 for nodes in NODES]
        axes.loglog(NODES, rates, "--", color="grey", linewidth=1)
        axes.annotate(f"{name} per node", (NODES[5], rates[5]), fontsize=7, ha="right", va="bottom")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("nodes of 8 GPUs, 400 images/s each")
    axes.set_ylabel("GB/s from the store, all nodes")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)


def replaced(page: str, name: str, lines: list[str]) -> str:
    """A page with other lines between the marks of a table."""
    before, begin, rest = page.partition(f"<!-- scale: {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    assert begin and end, f"the page has no marks of {name}"
    return f"{before}{begin}" + "".join(f"{line}\n" for line in lines) + f"{end}{after}"


@click.command()
@click.option("--write", is_flag=True, help="Write the tables and the figure to docs.")
def main(write: bool) -> None:
    """Print what storage and network have to give for 1 to 512 nodes."""
    tables = {"codecs": codec_rows(), "nodes": node_rows({n: share_of(n) for n in NODES})}
    for lines in tables.values():
        click.echo("\n".join([*lines, ""]))
    first = S3_GETS // (GPUS * RATE), GCS_GETS // (GPUS * RATE)
    click.echo(f"one request per sample: up to {first[0]} node(s) before S3 scales, {first[1]} GCS")
    if write:
        page = DOCS / "measured.md"
        for name, lines in tables.items():
            page.write_text(replaced(page.read_text(), name, lines))
        draw(DOCS / "images" / "scale.png")


if __name__ == "__main__":
    main()
