import numpy as np

from analysis.families import judge
from analysis.statistics import paired_contrast
from workbench.significance import LEVEL, fewest_seeds, no_verdict, smallest_p


def test_the_fewest_seeds_are_those_with_which_the_report_can_reject() -> None:
    """Whatever the differences are: here as clear as can be, in three contrasts at once."""
    rng = np.random.default_rng(0)
    for seeds in range(2, 9):
        clear = 100 + rng.normal(size=(seeds, 3))
        judged = judge(clear)
        p = paired_contrast(clear[:, 0], np.zeros(seeds)).p
        assert p == smallest_p(seeds)
        assert (p <= LEVEL) == (seeds >= fewest_seeds())
        if seeds >= fewest_seeds():
            assert (judged.adjusted == smallest_p(seeds)).all()
        else:
            assert np.isnan(judged.adjusted).all()


def test_an_experiment_whose_seeds_are_too_few_says_so() -> None:
    assert no_verdict(6, 3) is None
    assert no_verdict(1, 1) is None  # nothing is compared
    assert (
        no_verdict(3, 2)
        == "3 seeds cannot reach a verdict: the smallest p of the report's test is then 0.25, above 0.05; it takes 6"
        " seeds."
    )
