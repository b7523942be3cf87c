"""Options of drawing images."""

from __future__ import annotations

from dataclasses import dataclass, field

from reed.config import option
from reed.errors import ReedError
from reed.flows import samplers
from reed.flows.samplers import Guidance
from reed.guides.steer import Steer

SAMPLERS = ("euler", "heun", "sde")
LABELS = ("balanced", "random")


@dataclass(frozen=True)
class SampleOptions:
    """Options of drawing images from a trained net.

    Attributes:
        sampler: euler or heun (ODE), or sde (Euler-Maruyama).
        steps: Steps of the integration.
        guidance: Classifier-free guidance.
        labels: balanced (sample i has label i mod classes) or random.
        label: Labels to draw in turn, by number or by name; if there are any, instead of `labels`.
        z: Guidance on the representations of guides (see reed.guides).
        seed: Seed; sample i depends only on (seed, i).
    """

    sampler: str = option(
        "euler",
        "Sampler: euler or heun (ODE), or sde (Euler-Maruyama, last step 0.04).",
        metavar="NAME",
        choices=SAMPLERS,
    )
    steps: int = option(50, "Number of sampler steps.")
    guidance: Guidance = field(default_factory=Guidance)
    z: Steer = field(default_factory=Steer)
    labels: str = option(
        "balanced",
        "Class labels: balanced (sample i gets label i mod classes) or random.",
        metavar="NAME",
        choices=LABELS,
    )
    label: tuple[str, ...] = option(
        (),
        "Label to draw, by the number or the name of its class; may be repeated, then samples get "
        "them in turn.",
        metavar="CLASS",
    )
    seed: int = option(0, "Random seed.")

    def __post_init__(self) -> None:
        for name, known in (("sampler", SAMPLERS), ("labels", LABELS)):
            if getattr(self, name) not in known:
                raise ReedError(f"{name} is {getattr(self, name)!r}, it must be one of {known}")
        samplers.check_steps(self.steps)

    @property
    def name(self) -> str:
        """Short form without defaults, for file names: "sde250-cfg1.8-t0-0.7-random"."""
        guidance, parts = self.guidance, [f"{self.sampler}{self.steps}"]
        if guidance.scale > 1:
            parts.append(f"cfg{guidance.scale:g}")
            if (guidance.low, guidance.high) != (0, 1):
                parts.append(f"t{guidance.low:g}-{guidance.high:g}")
        parts += [self.z.name] if self.z.name else []
        parts += [self.labels] if self.labels != "balanced" else []
        parts += ["label" + "+".join(self.label)] if self.label else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)
