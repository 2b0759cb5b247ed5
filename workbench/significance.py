"""The number of seeds that a verdict needs: the report's rule, for planning an experiment."""

LEVEL = 0.05


def smallest_p(seeds: int) -> float:
    """Returns the smallest two-sided p-value that a sign-flip test with `seeds` paired seeds can reach. The joint
    adjustment for several contrasts does not change it, since all contrasts share the same flips."""
    return 2.0 ** (1 - seeds) if seeds > 0 else 1.0


def fewest_seeds() -> int:
    """Returns the smallest number of paired seeds with which a sign-flip test can reach the level."""
    return next(count for count in range(1, 64) if smallest_p(count) <= LEVEL)


def no_verdict(seeds: int, arms: int) -> str | None:
    """Returns why an experiment with `seeds` seeds cannot find any arm different from its baseline; None where it
    can."""
    if arms < 2 or seeds >= fewest_seeds():
        return None
    noun = "seed" if seeds == 1 else "seeds"
    return (
        f"{seeds} {noun} cannot reach a verdict: the smallest p of the report's test is then {smallest_p(seeds):.3g},"
        f" above {LEVEL:g}; it takes {fewest_seeds()} seeds."
    )
