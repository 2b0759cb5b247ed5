from workbench.runs.reproduce import differing


def test_what_is_not_as_it_was_is_named() -> None:
    then = {"python": "3.11.2", "gpus": [], "packages": {"torch": "2.9.0", "gone": "1"}}
    now = {"python": "3.12.0", "gpus": [], "packages": {"torch": "2.9.0", "numpy": "2.1"}}
    assert differing(then, now) == ["python: 3.11.2 then, 3.12.0 now", "numpy: None then, 2.1 now"]
    assert differing(now, now) == []
