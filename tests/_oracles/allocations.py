"""All allocations of a small problem, one after the other: the judge of every allocator."""

import itertools

import numpy as np


def every_choice(layers, choices, ties=()):
    """Each tuple of choices in which tied layers agree."""
    for choice in itertools.product(range(choices), repeat=layers):
        if all(choice[i] == choice[j] for tie in ties for i, j in itertools.pairwise(tie)):
            yield choice


def cost_of(table, choice):
    return sum(row[k] for row, k in zip(np.asarray(table).tolist(), choice, strict=True))


def best(loss, tables_and_limits, ties=()):
    """Least loss within all limits, or None."""
    losses = [cost_of(loss, c) for c in every_choice(*np.shape(loss), ties)
              if all(cost_of(table, c) <= limit for table, limit in tables_and_limits)]
    return min(losses, default=None)


def staircase(loss, cost, ties=()):
    """The (cost, loss) points that no other dominates, by rising cost."""
    points = sorted({(cost_of(cost, c), cost_of(loss, c)) for c in
                     every_choice(*np.shape(loss), ties)})
    kept = []
    for point in points:
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
