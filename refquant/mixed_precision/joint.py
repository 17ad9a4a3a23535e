r"""JASQ: let networks and their bit-widths evolve together.

The best bits depend on the network, and the best network on its bits. A *genome* holds both:
genes of the architecture (a width, a kind of block) and genes of the bits. Of a few members of
the population drawn at random the fittest has a child, in which one gene of one part changes.
Unless it is the twin of a member, it joins, and the least fit makes room. Fitness weighs quality
against size,

.. math:: F = A \cdot (S / S_{target})^{w}, \qquad
          w = w_{below} \text{ if } S \le S_{target} \text{ else } w_{above}

Here a budget is a price and not a wall: what a search may not exceed it must be told otherwise.
"""

from collections.abc import Sequence

import numpy as np

from refquant._types import Codes
from refquant._validate import require_int, require_positive
from refquant.mixed_precision.search import Agent, Memory

__all__ = ["evolution", "mutated", "size_fitness"]


def evolution(
    parts: Sequence[Sequence[int]], *, population: int = 16, tournament: int = 4
) -> Agent:
    """An agent that breeds genomes.

    Parameters
    ----------
    parts : sequence of sequence of int
        For each part of the genome, how many values each of its genes has:
        ``[(3, 2), (7,) * 10]`` is three widths, two blocks, and ten bit-widths out of seven.
        Parts mutate equally often, however many genes they have.
    population : int
        At least 2; as many genomes are drawn at random first.
    tournament : int
        How many compete to be parent; more is greedier.

    Returns
    -------
    Agent
        Its policies are genomes: numbers of the values, part after part.

    Notes
    -----
    The child of a good parent may inherit trained weights; that is the business of the function
    that judges. With one value for each gene of the architecture it searches bits alone.

    References
    ----------
    Chen et al., 2018, arXiv:1811.09426, section 3 (joint search, called JASQ there); Real et al.,
    2017, arXiv:1703.01041, section 3.1 (tournaments).

    Examples
    --------
    >>> from refquant.mixed_precision.search import search
    >>> agent = evolution([(3, 2), (7, 7)])
    >>> found = search(agent, lambda genome: float(genome @ [1, 1, -1, 1]), evaluations=150,
    ...                rng=np.random.default_rng(0))
    >>> found.policy
    array([2, 1, 0, 6], dtype=int32)
    """
    require_int("population", population, 2)
    require_int("tournament", tournament, 1, population)
    counts = np.concatenate([np.asarray(part, np.int32) for part in parts])
    require_positive("parts", counts)

    def start(rng: np.random.Generator) -> Memory:
        return {"genomes": np.zeros((0, len(counts)), np.int32), "fitness": np.zeros(0)}

    def ask(memory: Memory, rng: np.random.Generator) -> tuple[Codes, Memory]:
        genomes, fitness = memory["genomes"], memory["fitness"]
        if len(genomes) < population:
            return rng.integers(counts).astype(np.int32), memory
        rivals = rng.choice(population, tournament, replace=False)
        return mutated(genomes[rivals[fitness[rivals].argmax()]], parts, rng=rng), memory

    def tell(memory: Memory, policy: Codes, reward: float, rng: np.random.Generator) -> Memory:
        if len(memory["genomes"]) == population and (memory["genomes"] == policy).all(1).any():
            return memory                       # no twins: they would crowd out all variety
        genomes = np.vstack([memory["genomes"], policy])
        fitness = np.append(memory["fitness"], reward)
        if len(genomes) <= population:
            return {"genomes": genomes, "fitness": fitness}
        # The first of the least fit: among equals the older goes, and the child stays.
        stays = np.arange(len(genomes)) != fitness.argmin()
        return {"genomes": genomes[stays], "fitness": fitness[stays]}

    name = f"evolution {population} {tournament}: {[list(map(int, part)) for part in parts]}"
    return Agent(name, start, ask, tell)


def mutated(
    genome: Codes, parts: Sequence[Sequence[int]], *, rng: np.random.Generator
) -> Codes:
    """The genome with one gene of one part changed.

    Parameters
    ----------
    genome : ndarray of int32, shape (genes,)
    parts : sequence of sequence of int
        As in `evolution`. Genes with a single value cannot change.
    rng : numpy.random.Generator
        Three draws: the part, the gene, its value.

    Returns
    -------
    ndarray of int32, shape (genes,)

    Raises
    ------
    ValueError
        If no gene has two values.

    References
    ----------
    Chen et al., 2018, arXiv:1811.09426, section 3.3.

    Examples
    --------
    >>> mutated(np.array([0, 0, 0]), [(1, 1), (2,)], rng=np.random.default_rng(0))
    array([0, 0, 1], dtype=int32)
    """
    counts = np.concatenate([np.asarray(part, np.int32) for part in parts])
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    variable = counts > 1
    if not variable.any():
        raise ValueError("`parts` must have a gene of two values; got none")
    part = rng.choice(np.unique(part_of[variable]))
    gene = rng.choice(np.flatnonzero(variable & (part_of == part)))
    child = np.array(genome, np.int32)
    child[gene] = (child[gene] + rng.integers(1, counts[gene])) % counts[gene]
    return child


def size_fitness(
    quality: float, size: float, *, target: float, below: float = 0.0, above: float = -1.0
) -> float:
    r"""Quality, marked down for size: :math:`A (S / S_{target})^w`.

    Parameters
    ----------
    quality : float
        A, larger is better, at least 0: an accuracy.
    size, target : float
        S and its target, > 0, in the same unit.
    below, above : float
        The exponent w on either side of the target. 0 and -1 is a hard bend; -0.07 on both
        sides trades 5 % of quality for a factor of two in size.

    Returns
    -------
    float

    References
    ----------
    Tan et al., 2019, arXiv:1807.11626, eqs. (2) and (3).

    Examples
    --------
    >>> size_fitness(0.9, 2.0, target=1.0), size_fitness(0.9, 0.5, target=1.0)
    (0.45, 0.9)
    """
    require_positive("size", np.asarray(size))
    require_positive("target", np.asarray(target))
    return float(quality * (size / target) ** (below if size <= target else above))
