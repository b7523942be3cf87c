"""Designing with a net that has guides: the denoiser that also draws the representations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reed.guides.reading import Reading
from reed.guides.view import View
from reed.nets import Extra, State
from reed.nets.mpnn import LETTERS, MPNN, Encoded


class GuidedDenoiser:
    """The function from letters [B, L] to logits [B, L, 20], with representations.

    The denoiser does not depend on time, and is called when some sample of the batch reveals
    letters. Nothing about a sample may depend on the others, so its representation is drawn for its
    own time t*, between two of its own steps, and a mean is read anew at its own steps alone.

    Args:
        net: The net.
        encoded: The encoded structures, [B].
        reading: The representations of the batch.
    """

    def __init__(self, net: MPNN, encoded: Encoded, reading: Reading) -> None:
        self._net, self._encoded, self.reading = net, encoded, reading
        self._time, self._seen = 1.0, torch.zeros(0)

    def begin(self, time: float, tokens: Tensor, due: Tensor) -> None:
        """Begin a step: tokens [B, L], and the samples that reveal letters, bool [B]."""
        self._time, self._seen = time, due
        view = View(
            lambda rows, extra, taps: self._net.decode(
                self._encoded.of(rows), tokens[rows], taps=taps, extra=extra
            )[1],
            lambda rows: self._encoded.mean[rows],
            self._encoded.resolved,
        )
        self.reading.advance(time, view, exact=False)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the logits of the letters."""

        def call(
            copies: list[bool], extra: Extra, taps: Sequence[int]
        ) -> tuple[Tensor, Mapping[int, State]]:
            rows = torch.arange(len(tokens), device=tokens.device).repeat(len(copies))
            return self._net.decode(self._encoded.of(rows), tokens[rows], taps=taps, extra=extra)

        mask = self._encoded.resolved
        logits, _ = self.reading.evaluate(call, self._time, mask=mask, seen=self._seen)
        return logits[..., :LETTERS]
