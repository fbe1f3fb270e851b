"""Minimizes a smooth function by limited-memory BFGS without a line search.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
Programming 45, 1989. Each step needs the loss and its gradient at a single point only.
"""

import numpy as np

# Relative accuracy of a loss that is summed in float32.
_ROUNDING = 1e-6


class Descent:
    """A descent from a given point.

    The initial approximation of the Hessian is a diagonal matrix that bounds it. A step that
    increases the loss is halved.

    Args:
      start: The initial point.

    Attributes:
      point: Point at which `step` expects the next loss and gradient.
      best: Point with the lowest loss so far, up to rounding.
    """

    def __init__(self, start: np.ndarray):
        self.point = self.best = start
        self._loss, self._gradient, self._pairs = np.inf, None, []

    def step(self, loss: float, gradient: np.ndarray, bound: np.ndarray) -> None:
        """Takes a step, given the loss and its gradient at `point`.

        Args:
          loss: Loss at `point`.
          gradient: Gradient at `point`, of the same shape.
          bound: Diagonal of a matrix that bounds the Hessian, of a shape that broadcasts to that
            of `point`.
        """
        if not loss <= self._loss + _ROUNDING * abs(loss):
            self.point = (self.best + self.point) / 2
            return
        if self._gradient is not None:
            point_change, gradient_change = self.point - self.best, gradient - self._gradient
            if (point_change * gradient_change).sum() > 0:
                self._pairs.append((point_change, gradient_change))
        self.best, self._loss, self._gradient = self.point, loss, gradient
        self.point = self.point - self._direction(gradient, bound)

    def _direction(self, gradient, bound):
        shares, rest = [], gradient
        for point_change, gradient_change in reversed(self._pairs):
            shares.append((point_change * rest).sum() / (point_change * gradient_change).sum())
            rest = rest - shares[-1] * gradient_change
        direction = rest / bound
        if self._pairs:
            point_change, gradient_change = self._pairs[-1]
            curvature = (point_change * gradient_change).sum()
            direction *= curvature / (gradient_change**2 / bound).sum()
        for pair, share in zip(self._pairs, reversed(shares), strict=True):
            point_change, gradient_change = pair
            curvature = (point_change * gradient_change).sum()
            direction += point_change * (share - (gradient_change * direction).sum() / curvature)
        return direction
