"""How much of a suite was measured, and whether the scores are valid for the whole suite."""

from collections import Counter
from collections.abc import Mapping

from workbench.evaluation.compositional import Counts
from workbench.evaluation.suites import ORDER, Protocol, SuiteItems

WHOLE = 0.99  # fraction of a kind's items that must be measured for the score to be valid for the whole suite


def logged_name(suite: str, protocol: Protocol) -> str:
    """The name under which a suite is logged; a subset of a suite has its own name."""
    name = suite
    if suite == "vl_checklist" and protocol.most_texts != Protocol.most_texts:
        name += f"-max-{protocol.most_texts}" if protocol.most_texts else "-all"
    return name + (f"-first-{protocol.limit}" if protocol.limit else "")


def suite_notes(read: SuiteItems, items: SuiteItems, missing: Mapping[str, str], protocol: Protocol) -> list[str]:
    """Remarks that a reader of the scores must know, one sentence per remark.

    `missing`: example id -> why it has no image.
    """
    notes = [f"{items.suite}: {' and '.join(items.absent)} not found, so these kinds are not measured"] * bool(
        items.absent
    )
    if read.identical:
        notes.append(
            f"left out, since their captions read the same: {_by_kind(Counter(e.kind for e in read.identical))}"
        )
    if cut := Counter(e.kind for e in items.identical) - Counter(e.kind for e in read.identical):
        notes.append(f"left out, since their captions have the same tokens for this model: {_by_kind(cut)}")
    if missing:
        kinds = {e.id: e.kind for e in items.examples}
        notes.append(f"without an image: {_by_kind(Counter(kinds[id] for id in missing))}; {where(items, missing)}")
    if items.suite == "aro" and any(e.kind in ORDER for e in items.examples):
        notes.append(f"nouns and adjectives by the tagger `{protocol.tagger}`")
    return notes


def where(items: SuiteItems, missing: Mapping[str, str]) -> str:
    return f"such as {next(iter(missing.values()))}; --images should hold {items.layout}"


def not_whole(items: SuiteItems, counts: Mapping[str, Counts], missing: Mapping[str, str]) -> str | None:
    """Why the scores are not valid for the whole suite: too few items of some kind were measured. None if they are."""
    few = {
        kind: f"{count.items:,} of {count.items + count.missing:,}"
        for kind, count in counts.items()
        if count.items < WHOLE * (count.items + count.missing)
    }
    if not few:
        return None
    return f"only a part of {items.suite} was measured ({_by_kind(few)}); {where(items, missing)}"


def _by_kind(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())
