"""Where the image files lie that a published file names: in a documented layout below one of several folders, or
anywhere below them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from workbench.data.images import SUFFIXES
from workbench.data.reading import is_leftover
from workbench.errors import UserError

Refused = Callable[[Path, str], None]  # hears of a folder that cannot be read, and why


@dataclass(frozen=True)
class ImageFolders:
    """Folders below which images lie. A folder is listed once, however many images are looked up in it."""

    roots: tuple[Path, ...]
    _listed: dict[str, frozenset[str]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, roots: Sequence[Path], option: str = "--images") -> "ImageFolders":
        """Raises UserError, which names the `option`, where one of them is no folder."""
        expanded = tuple(root.expanduser() for root in roots)
        for root in expanded:
            if not root.is_dir():
                raise UserError(f"{option}: there is no folder {root}.")
        return cls(expanded)

    def find(self, *names: str) -> Path:
        """As `search`; where there is no such file, the first root's path of the first name, which does not exist."""
        return self.search(*names) or self.roots[0].joinpath(*_relative(PurePosixPath(names[0]).parts))

    def search(self, *names: str) -> Path | None:
        """The file that has one of these `names`, which are paths relative to a root, the documented one first.

        Each name is tried as it is; then without its first folders, since a list may hold the paths of its author's
        machine; last, any file below the roots whose path ends like one of the names. None where there is no such file,
        or where several are equally good.
        """
        tails = [tail for name in names if (tail := PurePosixPath(name).parts)]
        for drop in range(max(map(len, tails), default=0)):
            for root in self.roots:
                for tail in tails:
                    if drop < len(tail) and self._holds(path := os.path.join(root, *tail[drop:])):
                        return Path(path)
        return self._anywhere(tails)

    def exactly(self, *names: str) -> Path | None:
        """The first root's file of the first of these names that has one."""
        paths = (os.path.join(root, name) for name in names for root in self.roots)
        return next((Path(path) for path in paths if self._holds(path)), None)

    def _holds(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(os.listdir(folder))
            except (OSError, ValueError):  # no such folder, or no name that a folder can have
                self._listed[folder] = frozenset()
        return name in self._listed[folder]

    def _anywhere(self, tails: Sequence[tuple[str, ...]]) -> Path | None:
        """The file below the roots that has most of the last parts of a name in common with it; of several, the one
        nearest to its root."""
        best: dict[tuple[int, int], set[str]] = {}
        for tail in tails:
            for depth, path in self._by_name.get(tail[-1], []):
                best.setdefault((_common(PurePosixPath(path).parts, tail), -depth), set()).add(path)
        nearest = best[max(best)] if best else set()
        return Path(nearest.pop()) if len(nearest) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[int, str]]]:
        """File name -> (folders between root and file, path) of each image below the roots."""
        found: dict[str, list[tuple[int, str]]] = {}
        for root in self.roots:
            for path in files_below(root):
                if os.path.splitext(path)[1].lower() in SUFFIXES:
                    depth = len(path.relative_to(root).parts)
                    found.setdefault(path.name, []).append((depth, str(path)))
        return found


def ranked(names: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """The folders, those first below which most of the first images are."""
    some = names[:50]
    # Where columns are swapped a caption is asked for, which is longer than a name may be.
    return sorted(folders, key=lambda folder: -sum(os.path.exists(folder / name) for name in some))


def places_of(
    wanted: Sequence[Sequence[str]], folders: Sequence[Path], images: ImageFolders, beside: Path
) -> list[Path]:
    """Where each image lies, by its names, the documented one first.

    That is below one of the documented `folders`, else where `images` (given by hand) finds it; where none was given
    and not one image lies as documented, where it is found below the folder `beside`. A file is the image of one name
    alone. An image that nobody has gets its first name below the first folder.
    """
    documented = ImageFolders(tuple(folders))
    exact = [documented.exactly(*names) for names in wanted]
    # Where others of its folder lie as documented an image is missing; a file elsewhere of its name is another one.
    complete = {os.path.dirname(names[0]) for path, names in zip(exact, wanted, strict=True) if path}
    search = images if images.roots else ImageFolders(() if complete else (beside,))
    lost = [k for k, path in enumerate(exact) if path is None and os.path.dirname(wanted[k][0]) not in complete]
    found = {k: path for k in lost if (path := search.search(*wanted[k]))}
    taken = {*exact}
    own = _without_rivals({k: path for k, path in found.items() if path not in taken}, wanted)
    return [path or own.get(k) or folders[0] / wanted[k][0] for k, path in enumerate(exact)]


def _without_rivals(found: dict[int, Path], wanted: Sequence[Sequence[str]]) -> dict[int, Path]:
    """Of the names that led to one file, that alone which has most of the last parts in common with it."""
    claims: dict[Path, list[tuple[int, int]]] = {}
    for k, path in found.items():
        common = max(_common(path.parts, PurePosixPath(name).parts) for name in wanted[k])
        claims.setdefault(path, []).append((common, k))
    best = {path: max(claim) for path, claim in claims.items()}
    return {k: path for path, (common, k) in best.items() if sum(common == other for other, _ in claims[path]) == 1}


def _relative(parts: tuple[str, ...]) -> tuple[str, ...]:
    return parts[1:] if parts and parts[0] == "/" else parts


def _common(path: tuple[str, ...], tail: tuple[str, ...]) -> int:
    """How many of the last parts are equal."""
    pairs = zip(reversed(path), reversed(tail), strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(path), len(tail)))


def files_below(folder: Path, refused: Refused = lambda folder, why: None) -> Iterator[Path]:
    """All files below a folder; linked folders are followed, each folder once, so that a loop ends."""
    seen: set[tuple[int, int]] = set()
    pending, linked = [folder], list[Path]()
    # What lies in the folder itself comes first, so that it is named by its own path and not by that of a link.
    while pending or linked:
        here = pending.pop() if pending else linked.pop(0)
        try:
            facts = here.stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            refused(here, f"the folder cannot be read ({error.strerror})")
            continue
        for entry in entries:
            if is_leftover(entry.name):
                continue
            if _is_folder(entry):
                (linked if entry.is_symlink() else pending).append(Path(entry.path))
            else:
                yield Path(entry.path)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
