"""reed-cache: build a feature cache, inspect it, and keep it intact."""

from __future__ import annotations

import click

from reed.cli.cache_build import build, plan, prefetch
from reed.cli.cache_convert import convert
from reed.cli.cache_exchange import export, import_
from reed.cli.cache_hub import pull, push
from reed.cli.cache_keep import reindex, repair, verify
from reed.cli.cache_look import doctor, info, list_, peek, study
from reed.cli.cache_space import prune, rm
from reed.extras import DISTRIBUTION


@click.group()
@click.version_option(package_name=DISTRIBUTION, prog_name="reed-cache")
def main() -> None:
    """Build and inspect feature caches (stage one).

    Example: reed-cache build digits
    """


building, looking = (plan, prefetch, build), (list_, info, study, peek, doctor)
keeping = (verify, repair, reindex, convert, rm, prune)
exchange = (export, import_, push, pull)
for command in (*building, *looking, *keeping, *exchange):
    main.add_command(command)


if __name__ == "__main__":
    main()
