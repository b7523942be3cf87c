"""What is checked or added when a run starts: classes, labels, samples that columns lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reed.cache.opened import Cache
from reed.cache.stream import ShardStream
from reed.domains.base import Bounded, Domain
from reed.errors import ReedError
from reed.guides.settings import GuideSpec
from reed.train.curriculum import Schedule
from reed.train.run_data import Lacking, RunData, domain_class
from reed.train.settings import TrainConfig

KEPT, NAMED = 100, 5  # lacking keys of each column in data.json; class names in a message


def with_limits(settings: TrainConfig, cache: Cache, data: RunData) -> TrainConfig:
    """Return the settings with the limits of a Bounded domain, such as its number of classes.

    A limit that is not set is the number of class names in the cache or, without names, one more
    than the greatest number.

    Raises:
        ReedError: The limit that is set is not the number of class names. A net that starts from
            other weights (`init`) may have more classes, and an existing run keeps its own.
    """
    domain = dict(settings.domain)
    for role, setting in getattr(domain_class(data.domain), "limits", {}).items():
        place, field = settings.data[role], data.fields[role]
        # The names are those of the source's labels; another column may hold other numbers.
        own = data.columns[place.partition("/")[0]].reads
        names = data.classes if field.kind == "label" and "label" in own else ()

        if setting not in domain:
            domain[setting] = len(names) or int(cache.join([place]).numbers(place).max()) + 1
            continue
        is_fixed = (settings.run / "config.json").is_file()
        if not names or domain[setting] == len(names) or is_fixed:
            continue
        if not (settings.init and domain[setting] > len(names)):
            shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
            raise ReedError(
                f"domain.{setting} is {domain[setting]}, {cache.folder} has {len(names)} classes "
                f"({shown}): leave domain.{setting} out, or set it to {len(names)}"
            )
    return replace(settings, domain=domain)


def check_labels(domain: Domain, stream: ShardStream, places: Mapping[str, str]) -> None:
    """Check that every number that the domain limits is at least 0 and below its limit.

    For example, the image domain uses the label `classes` for "no label", so no sample may have it.

    Args:
        domain: The domain; only a Bounded one has limits.
        stream: The samples of the run.
        places: Role -> "column/field", for messages.

    Raises:
        ReedError: A number is out of range; the message names the first sample.
    """
    limits = domain.limits if isinstance(domain, Bounded) else {}
    for role, setting in limits.items():
        numbers, limit = stream.numbers(role), getattr(domain, setting)
        bad = (numbers < 0) | (numbers >= limit)
        if bad.any():
            row = int(bad.argmax())
            raise ReedError(
                f"{places[role]} of sample {stream.key(row)!r} is {numbers[row]}, the greatest is "
                f"{numbers.max()}, and domain.{setting} is {limit}: labels go from 0 to "
                f"{limit - 1}; set domain.{setting}={numbers.max() + 1}, or mend the labels"
            )


def with_lacking(data: RunData, stream: ShardStream) -> RunData:
    """Return the run's data with the samples that its columns lack, as the stream found them."""
    lacking = {
        name: Lacking(len(keys), tuple(keys[:KEPT]))
        for name, keys in stream.lacking.items()
        if keys
    }
    return replace(data, left_out=stream.left_out, lacking=lacking)


def check_trained(guides: Mapping[str, GuideSpec], schedules: Mapping[str, Schedule]) -> None:
    """Raise ReedError for a guide whose weight is 0 throughout, unless it trains nothing."""
    for name, guide in guides.items():
        read = guide.config.read
        if read != "bank" and schedules[name].is_off():
            raise ReedError(
                f"curriculum.{name} is 0, so what gives guide.{name} its z in sampling (read = "
                f"{read!r}) would never be trained; give it a weight above 0, or leave it out"
            )


def check_fewest(settings: TrainConfig, stream: ShardStream, world: int) -> None:
    """Raise ReedError if a batch of long samples, given by `tokens`, is too small to be divided."""
    if stream.fewest < world * settings.accumulate:
        raise ReedError(
            f"tokens {settings.tokens} makes batches of {stream.fewest} samples, fewer than "
            f"{world} processes x {settings.accumulate} micro-batches; raise it"
        )
