"""What a run needs to know about its cache, kept in data.json in the folder of the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reed import config
from reed.cache.files import write_atomic
from reed.cache.opened import Cache, open_cache
from reed.cache.schema import Column, Field
from reed.errors import ReedError, suggest
from reed.train.identity import Identity
from reed.train.standard import standardised
from reed.wording import counted, named

if TYPE_CHECKING:
    from reed.domains.base import Domain, Sized
    from reed.guides.settings import GuideConfig, GuideSpec
    from reed.nets import Net

NAME = "data.json"


@dataclass(frozen=True)
class Lacking:
    """The samples that a column lacks.

    Attributes:
        count: Number of the samples.
        keys: Keys of the first of them.
    """

    count: int
    keys: tuple[str, ...]

    @property
    def first(self) -> str:
        """A few of the keys, for a message."""
        return named(self.keys, self.count)


@dataclass(frozen=True)
class RunData:
    """The content of data.json; with it a run can be sampled on a machine without its cache.

    Attributes:
        domain: Name of the domain, in DOMAINS.
        pipeline: Name of the pipeline that built the cache.
        samples: Number of samples in the cache, including those that are left out.
        fields: Role -> the cached field.
        columns: Columns of these fields, by name; they name the decoder of latents.
        lengths: Number of tokens (as text) -> number of samples with it, for a Sized domain.
        classes: Names of the classes, by number; empty if the cache has none.
        left_out: Number of samples that are not trained on, because a column lacks them.
        lacking: Column -> the samples that it lacks; only columns that lack some.
        guide_fields: Guide -> the cached field of its representation.
        identity: What the run reads of its cache.
    """

    domain: str
    pipeline: str
    samples: int
    fields: dict[str, Field]
    columns: dict[str, Column]
    lengths: dict[str, int] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    left_out: int = 0
    lacking: dict[str, Lacking] = dataclasses.field(default_factory=dict)
    guide_fields: dict[str, Field] = dataclasses.field(default_factory=dict)
    identity: Identity = dataclasses.field(default_factory=Identity)

    @classmethod
    def of_cache(
        cls, cache: Cache, data: Mapping[str, str], guides: Mapping[str, GuideConfig] | None = None
    ) -> RunData:
        """Collect the data of a run from its cache.

        Args:
            cache: The cache.
            data: Role -> "column/field", as in the recipe.
            guides: The recipe's guides by name.

        Raises:
            ReedError: A role is missing or unknown, or a column is absent or incomplete.
        """
        domain = domain_class(cache.manifest.domain)
        _check_roles(domain, data)
        stored = {role: cache.column_and_field(address) for role, address in data.items()}

        # Only a Sized domain needs to know the length of every sample.
        lengths = None
        if issubclass(domain, _sized()):
            lengths = cache.join(data).lengths
            if lengths is None:
                addresses = ", ".join(data.values())
                raise ReedError(f"the samples of {cache.folder} are all of one length: {addresses}")

        return cls(
            cache.manifest.domain,
            cache.manifest.pipeline,
            cache.manifest.samples,
            standardised(cache, domain, stored),
            {column.name: column for column, _ in stored.values()},
            {} if lengths is None else _counted(lengths.tolist()),
            cache.classes,
            guide_fields={
                name: cache.column_and_field(guide.target)[1]
                for name, guide in (guides or {}).items()
            },
        )

    @classmethod
    def read(cls, run: Path) -> RunData | None:
        """Read the data.json of a run; None if an older version made the run, without the file."""
        path = run / NAME
        return config.build(cls, config.read(path), str(path)) if path.is_file() else None

    @classmethod
    def of_run(cls, run: Path, shards: Path, data: Mapping[str, str]) -> RunData:
        """Read data.json or, where the folder of the run has none, collect it from the cache."""
        if stored := cls.read(run):
            return stored
        with open_cache(shards) as cache:
            return cls.of_cache(cache, data)

    @property
    def said(self) -> str | None:
        """One line about the samples that are not trained on, and why; None if all are."""
        if not self.lacking:
            return None
        lacks = "; ".join(
            f"{column} lacks {samples.count:,} ({samples.first})"
            for column, samples in self.lacking.items()
        )
        used = self.samples - self.left_out
        return f"trains on {used:,} of the cache's {counted(self.samples, 'sample')}: {lacks}"

    def check(self, run: Path) -> None:
        """Check that a run, if it exists, was trained from this cache, which may have moved.

        Raises:
            ReedError: A field is another one, or the cache; the message names the first
                difference.
        """
        stored = RunData.read(run)
        if stored is None:
            return

        # A field that is stored in another way is the same to the net; one of another scale is not.
        for name, old, new in config.differences(_seen(stored), _seen(self), "fields"):
            raise ReedError(
                f"{run} was trained on {name} = {old!r}, the cache now has {new!r}; give --shards "
                "the cache that it was trained from, or choose another --run"
            )
        # A run of an earlier version has no identity, and any cache that fits may be its own.
        if differs := stored.identity.differs(self.identity):
            raise ReedError(
                f"{run} was trained from another cache: {differs}; "
                "choose another --run, or give --shards the cache that it was trained from"
            )

    def check_bank(self, cache: Cache, target: str) -> None:
        """Check that the bank of a guide is the column that the run was trained on.

        Args:
            cache: The cache, which may have changed since.
            target: "column/field" of the bank.

        Raises:
            ReedError: It is another one; the message names the first difference.
        """
        if differs := self.identity.differs(Identity.of(cache, [target])):
            raise ReedError(
                f"{cache.folder} has changed since the run was trained: {differs}; its bank "
                f"{target} would give the samples another z, so put the old cache back, or train "
                "another run"
            )

    def write(self, run: Path) -> None:
        """Write data.json; if it exists, see `check`, and what it says of samples is renewed."""
        self.check(run)
        stored, new = RunData.read(run), self
        if stored is not None:
            # Samples that failed may have been built again since the run began.
            identity = stored.identity if stored.identity.keys else self.identity
            new = dataclasses.replace(
                stored, left_out=self.left_out, lacking=self.lacking, identity=identity
            )
        if new != stored:
            write_atomic(run / NAME, (json.dumps(config.plain(new), indent=1) + "\n").encode())

    def guides(self, configs: Mapping[str, GuideConfig], net: Net) -> dict[str, GuideSpec]:
        """Return the guides of a recipe by name, without those that never enter.

        Raises:
            ReedError: A guide does not fit its field or the net.
        """
        from reed.guides.settings import check_guide  # here, as in _domain_class

        specs = {
            name: check_guide(name, config, self.guide_fields[name], net)
            for name, config in configs.items()
        }
        specs = {name: spec for name, spec in specs.items() if not spec.when.is_never}
        lags = {
            name: spec.config.lag for name, spec in specs.items() if spec.config.read == "joint"
        }
        if len(set(lags.values())) > 1:
            raise ReedError(
                f"guides have different lags, {lags}; x and every z beside it need one, because x "
                "can wait for one of them alone: give all guides with read = 'joint' the same lag"
            )
        return specs

    def make_domain(self, settings: Mapping[str, Any]) -> Domain:
        """Make the domain with a recipe's settings; a Sized one gets the lengths of all samples."""
        domain = config.build(domain_class(self.domain), settings, "domain")
        if not isinstance(domain, _sized()):
            return domain
        counts = sorted((int(length), count) for length, count in self.lengths.items())
        return domain.sized([length for length, count in counts for _ in range(count)])


def _sized() -> type[Sized]:
    from reed.domains.base import Sized  # here, as in domain_class

    return Sized


def domain_class(name: str) -> Any:
    """Return the class of a domain, which must be a dataclass."""
    # Imported here because it imports torch, and a page that shows data.json needs no torch.
    from reed.domains.base import DOMAINS

    domain = DOMAINS.get(name)
    if not dataclasses.is_dataclass(domain):
        raise ReedError(
            f"domain {name!r} is {domain!r}, not a dataclass; write "
            "@dataclass(frozen=True) before it, its fields are its settings"
        )
    return domain


def _check_roles(domain: Domain, data: Mapping[str, str]) -> None:
    """Check that a recipe gives every role of the domain, and no other."""
    for role in domain.roles:
        if role not in data:
            raise ReedError(f"data.{role} is missing: name the column/field that holds it")
    for role in data:
        if role not in domain.roles:
            raise ReedError(f"data.{role} is unknown.{suggest(role, domain.roles)}")


def _counted(lengths: list[int]) -> dict[str, int]:
    """Count the samples of each length; JSON needs the lengths as text."""
    return {str(length): count for length, count in sorted(Counter(lengths).items())}


def _seen(data: RunData) -> dict[str, dict[str, Any]]:
    """Return what the net sees of every field; codec and container make no difference to it."""
    names = ("kind", "shape", "scale", "shift")
    fields = config.plain(data.fields)
    return {role: {name: _short(field[name]) for name in names} for role, field in fields.items()}


def _short(value: Any) -> Any:
    """Return the numbers of many channels as a few words, which differ where the numbers do."""
    if not isinstance(value, list) or len(value) <= 8:
        return value
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    return f"{len(value)} numbers from {value[0]:.6g} on ({digest})"
