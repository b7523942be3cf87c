"""What the Ray engine does when nodes die, with a stand-in for Ray that loses tasks as told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from reed.build import engines, ray_engine
from reed.build.engines import Share
from reed.build.shard import Timing
from reed.cache import schema
from reed.errors import ReedError


class RayError(Exception):
    """Ray's base class."""


class NodeDiedError(RayError):
    """A node died under every attempt of a task."""


class WorkerCrashedError(RayError):
    """A worker process died under every attempt."""


@dataclass(eq=False)
class SimpleTask:
    """A call that was not made yet; equal to itself only."""

    call: Callable
    args: tuple


class Ray:
    """Runs tasks in this process when asked for them; shard -> the errors that come first."""

    exceptions = SimpleNamespace(
        RayError=RayError, NodeDiedError=NodeDiedError, RayTaskError=type("Bug", (Exception,), {})
    )

    def __init__(self, errors):
        self.errors, self.cancelled, self.began = errors, [], []

    def remote(self, **_):
        def made(task):
            def start(*args):
                self.began.append(args[1])
                return SimpleTask(task, args)

            return SimpleNamespace(remote=start)

        return made

    def wait(self, tasks):
        return tasks[:1], tasks[1:]

    def get(self, task):
        if self.errors.get(task.args[1]):
            raise self.errors[task.args[1]].pop(0)
        return task.call(*task.args)

    def cancel(self, task, force):
        self.cancelled.append(task.args[1])


@pytest.fixture
def build(fakes, whole, monkeypatch):
    """Builds four shards that are there, with those errors; returns the stand-in."""
    job = fakes.job(whole, "pixels")
    todo = engines.Todo(list(range(4)), list(range(4)), ray_engine.build.new_tally(job))
    monkeypatch.setattr(ray_engine, "_todo", lambda *_: todo)

    def built(spec, shard, workers):
        return schema.load_marker(whole, job.column, shard), Timing(encode=1), (1, {})

    monkeypatch.setattr(ray_engine, "_build", built)

    def run(errors):
        ray = Ray(errors)
        share = Share()
        try:
            seconds = ray_engine.run(ray, "pixels", job.plan, job, share, progress=False)
        except ReedError as error:
            return ray, error
        return ray, seconds.encode

    return run


def test_a_shard_whose_nodes_die_is_built_on_others(build):
    ray, seconds = build({2: [NodeDiedError("gone")] * ray_engine.LOST, 1: [NodeDiedError("gone")]})
    assert seconds == 4, "a shard was lost or built twice"
    assert ray.began.count(2) == 1 + ray_engine.LOST and ray.began.count(1) == 2


def test_a_shard_under_which_every_node_dies_ends_the_build(build):
    ray, error = build({0: [NodeDiedError("gone\nmore")] * (ray_engine.LOST + 1)})
    assert str(error).startswith("column 'pixels': a Ray worker died 4 times over the same shard")
    assert "(gone)" in str(error) and "\n" not in str(error)


def test_a_worker_that_crashes_is_not_started_again(build):
    ray, error = build({1: [WorkerCrashedError("segmentation fault")]})
    assert "segmentation fault" in str(error) and ray.began.count(1) == 1
    assert sorted(ray.cancelled) == [2, 3]
