import io

from rich.console import Console

from workbench.progress import counting


def test_each_kind_of_work_has_a_bar_of_its_own() -> None:
    out = io.StringIO()
    with counting(Console(file=out, force_terminal=True, width=100), "vqa") as show:
        show("images", 3, 40)
        show("vqa", 5, 600)
        show("images", 40, 40)
    first, second = (line for line in out.getvalue().splitlines()[-3:] if "/" in line)
    assert ("vqa" in first, "5/600" in first) == (True, True)
    assert ("images" in second, "40/40" in second) == (True, True)
