"""How many seeds a verdict needs: the rule of the report, for those who plan an experiment."""

LEVEL = 0.05


def smallest_p(seeds: int) -> float:
    """The smallest two-sided p that sign flips of so many paired seeds can give; adjusted jointly for several contrasts
    it is no smaller, and no larger either, since the same flips serve them all."""
    return 2.0 ** (1 - seeds) if seeds > 0 else 1.0


def fewest_seeds() -> int:
    """The number of paired seeds from which on a sign-flip test can reach the level."""
    return next(count for count in range(1, 64) if smallest_p(count) <= LEVEL)


def no_verdict(seeds: int, arms: int) -> str | None:
    """Why an experiment with so many seeds can call no arm different from its baseline; None where it can."""
    if arms < 2 or seeds >= fewest_seeds():
        return None
    told = "seed" if seeds == 1 else "seeds"
    return (
        f"{seeds} {told} cannot reach a verdict: the smallest p of the report's test is then {smallest_p(seeds):.3g},"
        f" above {LEVEL:g}; it takes {fewest_seeds()} seeds."
    )
