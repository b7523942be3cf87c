"""The card of a cache on the hub: what it holds, of which size, under which licences."""

from __future__ import annotations

from dataclasses import dataclass

from reed.bytes import human
from reed.cache.plan import Plan
from reed.cache.schema import Column, Field
from reed.wording import classes_of, counted

MADE = "<!-- This card is made by reed-cache push; without this line it is left alone. -->"

# What the hub calls licences; others are named in the table alone.
_HUB = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc0-1.0": "cc0-1.0",
    "bsd-3-clause": "bsd-3-clause",
}
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)


@dataclass(frozen=True)
class Listed:
    """A column as the card lists it.

    Attributes:
        column: Its description.
        bytes: Bytes of its shards.
        failed: Number of samples that it lacks.
    """

    column: Column
    bytes: int
    failed: int


def card(title: str, url: str, plan: Plan, columns: list[Listed]) -> str:
    """Return the card, in Markdown with the hub's header.

    Args:
        title: Name of the cache.
        url: Address of the data set.
        plan: The plan of the cache.
        columns: Its columns.
    """
    manifest, total = plan.manifest, sum(each.bytes for each in columns)
    facts = [
        f"{counted(manifest.samples, 'sample')}, {counted(plan.shards, 'shard')} per column, "
        f"{human(total)}",
        f"kind of data: {manifest.domain}; pipeline: {manifest.pipeline}",
    ]
    facts += ["each sample is stored twice, as it is and mirrored"] if manifest.views > 1 else []
    facts += [f"classes: {told}"] if (told := classes_of(manifest.classes)) else []
    facts += [f"sha256 of the list of keys: `{manifest.keys_sha256}`"]

    # What identifies the values comes last: it is long, and for programs.
    lines = [f"- {fact}" for fact in facts]
    table = ["| column | fields | encoder | bytes | lacks | licence |", "|---|---|---|---|---|---|"]
    table += [_row(each) for each in columns]
    made = ["| column | identity | revision of the encoder |", "|---|---|---|"]
    made += [f"| {c.name} | `{c.identity()}` | `{_cell(c.revision)}` |" for c in _plain(columns)]
    use = ["```sh", f"reed-cache pull {url} cache/{title}", f"reed-train --shards cache/{title}"]
    parts = [
        f"# {title}",
        "A feature cache of REED: the outputs of frozen encoders, and what a model is trained on, "
        "in tar files that webdataset reads, too.",
        *("\n".join(part) for part in (lines, table, [*use, "```"], made)),
    ]
    return _header(manifest.samples, columns) + MADE + "\n\n" + "\n\n".join(parts) + "\n"


def _header(samples: int, columns: list[Listed]) -> str:
    """Return the metadata that the hub reads."""
    licences = {_HUB.get(each.column.licence.strip().lower(), "other") for each in columns}
    licence = licences.pop() if len(licences) == 1 else "other"
    size = next((name for limit, name in _SIZES if samples < limit), "100M<n<1B")
    tags = "tags:\n- feature-cache\n- webdataset\n"
    return f"---\nlicense: {licence}\n{tags}size_categories:\n- {size}\nviewer: false\n---\n"


def _row(each: Listed) -> str:
    column = each.column
    fields = ", ".join(f"{f.name} ({f.kind}, {_shape(f)}, {f.codec})" for f in column.fields)
    licence = _cell(column.licence) or "not stated"
    lacks = counted(each.failed, "sample") if each.failed else "none"
    cells = (column.name, fields, column.encoder, human(each.bytes), lacks, licence)
    return f"| {' | '.join(cells)} |"


def _shape(field: Field) -> str:
    return "×".join("?" if n is None else str(n) for n in field.shape) or "1"


def _cell(text: str) -> str:
    """Return a text that a cell of a table can hold."""
    return " ".join(text.replace("|", "/").split())


def _plain(columns: list[Listed]) -> list[Column]:
    return [each.column for each in columns]
