"""Locates the image files that a published file names: in a documented layout below one of several folders, or
anywhere below them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from workbench.data.images import SUFFIXES
from workbench.data.reading import is_leftover
from workbench.errors import UserError

Refused = Callable[[Path, str], None]  # is called with a folder that cannot be read, and the reason


@dataclass(frozen=True)
class ImageFolders:
    """Folders that contain images. A folder is listed once, however many images are looked up in it."""

    roots: tuple[Path, ...]
    _listed: dict[str, frozenset[str]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, roots: Sequence[Path], option: str = "--images") -> "ImageFolders":
        """The folders at `roots`. Raises UserError, which names the `option`, if one of them is not a folder."""
        expanded = tuple(root.expanduser() for root in roots)
        for root in expanded:
            if not root.is_dir():
                raise UserError(f"{option}: there is no folder {root}.")
        return cls(expanded)

    def find(self, *names: str) -> Path:
        """As `search`; without such a file, the first root's path of the first name, which does not exist."""
        return self.search(*names) or self.roots[0].joinpath(*_relative(PurePosixPath(names[0]).parts))

    def search(self, *names: str) -> Path | None:
        """The file with one of these `names`, which are paths relative to a root, the documented one first.

        Each name is tried as it is. Next it is tried without its first folders, since a list may contain the paths of
        its author's machine. Last, any file below the roots whose path ends like one of the names is taken. None if
        there is no such file, or if several match equally well.
        """
        tails = [tail for name in names if (tail := PurePosixPath(name).parts)]
        for drop in range(max(map(len, tails), default=0)):
            for root in self.roots:
                for tail in tails:
                    if drop < len(tail) and self._holds(path := os.path.join(root, *tail[drop:])):
                        return Path(path)
        return self._anywhere(tails)

    def exactly(self, *names: str) -> Path | None:
        """The file of the first of these names that exists, in the first root that has it."""
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
        """The file below the roots that shares most trailing path parts with a name; of several, the one nearest to its
        root."""
        best: dict[tuple[int, int], set[str]] = {}
        for tail in tails:
            for depth, path in self._by_name.get(tail[-1], []):
                best.setdefault((_common(PurePosixPath(path).parts, tail), -depth), set()).add(path)
        nearest = best[max(best)] if best else set()
        return Path(nearest.pop()) if len(nearest) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[int, str]]]:
        """File name -> (folders between root and file, path) of each image below the roots."""
        by_name: dict[str, list[tuple[int, str]]] = {}
        for root in self.roots:
            for path in files_below(root):
                if os.path.splitext(path)[1].lower() in SUFFIXES:
                    depth = len(path.relative_to(root).parts)
                    by_name.setdefault(path.name, []).append((depth, str(path)))
        return by_name


def ranked(names: Sequence[str], folders: Sequence[Path]) -> list[Path]:
    """The folders, sorted by how many of the first images they contain, most first."""
    sampled = names[:50]
    # With swapped columns, a caption is looked up, which may be too long for a file name.
    return sorted(folders, key=lambda folder: -sum(os.path.exists(folder / name) for name in sampled))


def places_of(
    wanted: Sequence[Sequence[str]], folders: Sequence[Path], images: ImageFolders, beside: Path
) -> list[Path]:
    """The path of each image, looked up by its names, the documented one first.

    An image is looked for below the documented `folders`, then in `images` (folders that the user names). If the user
    names none and no image is where it is documented, the folder `beside` is searched. A file is used for one name
    only. A missing image gets its first name below the first folder.
    """
    documented = ImageFolders(tuple(folders))
    exact = [documented.exactly(*names) for names in wanted]
    # If other images of its folder are in place, an image is missing; a file of its name elsewhere is another image.
    complete = {os.path.dirname(names[0]) for path, names in zip(exact, wanted, strict=True) if path}
    search = images if images.roots else ImageFolders(() if complete else (beside,))
    misplaced = [k for k, path in enumerate(exact) if path is None and os.path.dirname(wanted[k][0]) not in complete]
    candidates = {k: path for k in misplaced if (path := search.search(*wanted[k]))}
    taken = {*exact}
    unique = _without_rivals({k: path for k, path in candidates.items() if path not in taken}, wanted)
    return [path or unique.get(k) or folders[0] / wanted[k][0] for k, path in enumerate(exact)]


def _without_rivals(candidates: dict[int, Path], wanted: Sequence[Sequence[str]]) -> dict[int, Path]:
    """Keeps, of the names that led to the same file, only the one that shares most trailing path parts with it."""
    claims: dict[Path, list[tuple[int, int]]] = {}
    for k, path in candidates.items():
        common = max(_common(path.parts, PurePosixPath(name).parts) for name in wanted[k])
        claims.setdefault(path, []).append((common, k))
    best = {path: max(claim) for path, claim in claims.items()}
    return {k: path for path, (common, k) in best.items() if sum(common == other for other, _ in claims[path]) == 1}


def _relative(parts: tuple[str, ...]) -> tuple[str, ...]:
    return parts[1:] if parts and parts[0] == "/" else parts


def _common(path: tuple[str, ...], tail: tuple[str, ...]) -> int:
    """The number of equal trailing parts."""
    pairs = zip(reversed(path), reversed(tail), strict=False)
    return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(path), len(tail)))


def files_below(folder: Path, refused: Refused = lambda folder, why: None) -> Iterator[Path]:
    """Yields all files below a folder; linked folders are followed, each folder once, so that loops end."""
    seen: set[tuple[int, int]] = set()
    pending, linked = [folder], list[Path]()
    # The folder's own content comes first, so that it gets its own path and not that of a link.
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
