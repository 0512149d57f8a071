"""Gradients of L_α for several α on the same batches: how they vary, and how far they lie from MeanFlow's."""

from collections.abc import Sequence

from torch import Tensor

from .gradients import Gradient, GradientMoments, Gradients
from .record import Point


class BiasVarianceCurve:
    """Bias and variance over α.

    There is nothing to compute at the ends: L_1 is TFM, and MeanFlow's gradient is the sum of TFM's and TC's.

    alphas: each in [0, 1]; none: no curve. 0 is always in a curve, for the others are compared with it.
    """

    def __init__(self, gradients: Gradients, alphas: Sequence[float]) -> None:
        self.gradients = gradients
        self.alphas = sorted({*alphas, 0.0}, reverse=True) if alphas else []
        self.between = [alpha for alpha in self.alphas if 0 < alpha < 1]
        self._away = {alpha: GradientMoments() for alpha in self.alphas}
        self._squares = dict.fromkeys(self.alphas, 0.0)

    def add(self, alpha: float, own: Gradient, tfm: Gradient, tc: Gradient) -> None:
        """Add a batch's gradients of L_α, TFM and TC."""
        away = [one - (x + y) for one, x, y in zip(own, tfm, tc)]
        self._squares[alpha] += self._square(own)
        self._away[alpha].add(away, self._square(away))

    def end(self, tfm: Gradient, tc: Gradient) -> None:
        """Add a batch's gradients at the ends, α = 1 and α = 0."""
        if 1 in self.alphas:
            self._squares[1] += self._square(tfm)
            self._away[1].add([-part for part in tc], self._square(tc))
        if self.alphas:
            limit = [x + y for x, y in zip(tfm, tc)]
            self._squares[0] += self._square(limit)
            self._away[0].add(limit, self._square(limit))

    def points(self) -> list[Point]:
        """Return the points by falling α."""
        points = []
        for alpha in self.alphas:
            away, limit = self._away[alpha], self._away[0]
            own = GradientMoments()
            own.count, own.squares = limit.count, self._squares[alpha]
            own.total = limit.total if alpha == 0 else [x + y for x, y in zip(away.total, limit.total)]
            whole = self._square(own.total)
            square = 0.0 if alpha == 0 else self._square(away.total)
            points.append(
                Point(
                    alpha=alpha,
                    variance=own.spread(whole),
                    bias=away.mean_square(square) if alpha else 0.0,
                    floor=away.spread(square) / away.count if alpha else 0.0,
                    signal=own.mean_square(whole),
                )
            )
        return points

    def _square(self, gradient: Sequence[Tensor]) -> float:
        device = self.gradients.weights[0].device
        return float(self.gradients.products([[part.to(device) for part in gradient]]).sum())
