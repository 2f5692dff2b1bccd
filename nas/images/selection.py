"""Which images of a folder a data set uses, in which split, and what is said of the others.

An image that is left out keeps its place in the random split, so that no other image changes sides: what was
trained on never comes to be reported on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.images.checked import Checked, Source, Update, checked
from nas.images.decoding import depths_of, other_range
from nas.images.files import ImageFile, as_on_disk, quoted, shown, split
from nas.images.scan import Tree
from search_spaces.errors import UsageError

ON_BAD, ON_EQUAL = ("refuse", "skip"), ("refuse", "keep")
MOST_NAMED = 10
UNREADABLE, NOT_IN_JOB, EQUAL_HELD_OUT = "unreadable", "not part of the job", "equal to a held-out one"
HELD_OUT = ("report", "search")  # an image in both is reported on


@dataclass(frozen=True)
class Choice:
    """What a job file says about which images are used.

    skipped: not used, though they keep their place in the split.  added: that came after the job had begun,
    not used either.  Both by relative path.
    """

    seed: int
    search: float
    report: float
    on_bad: str = ON_BAD[0]
    on_equal: str = ON_EQUAL[0]
    skipped: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Selection:
    """The images of each split, what each file of the folder holds, and what was left out and why.

    everything: all images with their place in the split, those included that are not used.
    unused: names of images that keep their place without being used.
    """

    classes: tuple[str, ...]
    splits: dict[str, list[ImageFile]]
    everything: dict[str, list[ImageFile]]
    contents: dict[str, Checked]
    left_out: dict[str, int]
    notes: tuple[str, ...]
    unused: frozenset[str]

    @property
    def facts(self) -> dict[str, Any]:
        """What `nas.datasets.described` tells of them."""
        counts = Counter(file.label for part in self.splits.values() for file in part)
        smallest, largest = (
            min(counts, key=lambda i: (counts[i], i)),
            max(counts, key=lambda i: (counts[i], -i)),
        )
        return {
            "smallest": [shown(self.classes[smallest]), counts[smallest]],
            "largest": [shown(self.classes[largest]), counts[largest]],
            "left_out": self.left_out,
            "notes": list(self.notes),
        }


def select(
    root: Path, tree: Tree, source: Source, choice: Choice, update: Update, *, threads: int
) -> Selection:
    """Checks and splits the images of `source` that a tree lists; `root` is where a user has them.

    Raises UsageError for images that cannot be read unless they are to be skipped, and for equal images of
    two classes unless they are to be kept.
    """
    tree = _of_job(tree, choice)
    present = [file for group in tree.groups.values() for file in group]
    contents = checked(source, present, update, threads=threads)
    bad = [f for f in present if contents[f.relative].problem and shown(f.relative) not in choice.skipped]
    if bad and choice.on_bad == "refuse":
        raise _unreadable(root, bad, len(present), contents)
    everything = split(
        _with_ghosts(root, tree, choice),
        lambda file: f"class '{shown(tree.classes[file.label])}' of '{shown(root)}'",
        seed=choice.seed,
        search=choice.search,
        report=choice.report,
    )
    unused = frozenset(choice.skipped | {shown(file.relative) for file in bad})
    splits = {
        name: [f for f in files if shown(f.relative) not in unused] for name, files in everything.items()
    }
    left_out = Counter(tree.left_out)
    left_out[UNREADABLE] += len(bad)
    left_out[NOT_IN_JOB] += len(choice.skipped)
    if choice.on_equal == "refuse":
        _check_labels(root, tree.classes, splits, contents)
    splits, notes = _disjoint(splits, contents, left_out)
    _check_filled(root, tree.classes, splits, notes)
    notes = [*tree.notes, *notes, *_of_other_ranges(splits, contents)]
    if bad:
        notes.append(f"Without {_named(bad, contents)}.")
    return Selection(tree.classes, splits, everything, contents, dict(+left_out), tuple(notes), unused)


def look(tree: Tree, source: Source, update: Update, *, threads: int) -> None:
    """Reads every image that was not read before."""
    checked(source, [file for group in tree.groups.values() for file in group], update, threads=threads)


def _of_job(tree: Tree, choice: Choice) -> Tree:
    """The tree without what came after the job had begun."""
    groups = {
        name: [file for file in files if shown(file.relative) not in choice.added]
        for name, files in tree.groups.items()
    }
    later = sum(map(len, tree.groups.values())) - sum(map(len, groups.values()))
    return replace(tree, groups=groups, left_out=tree.left_out | ({NOT_IN_JOB: later} if later else {}))


def _with_ghosts(root: Path, tree: Tree, choice: Choice) -> dict[str, list[ImageFile]]:
    """The groups with the skipped images that are gone by now: they keep their places."""
    first = {name: files[0].relative.split("/")[0] for name, files in tree.groups.items() if files}
    present = {shown(file.relative) for files in tree.groups.values() for file in files}
    groups = {name: list(files) for name, files in tree.groups.items()}
    for relative in choice.skipped - present:
        path = as_on_disk(relative)
        above, *rest = path.split("/")
        group = "all" if "all" in groups else next((g for g, top in first.items() if top == above), None)
        name = above if group == "all" else (rest or [""])[0]
        if group is not None and name in tree.classes:
            ghost = ImageFile(root / path, path, tree.classes.index(name), 0)
            groups[group].append(ghost)
    return {name: sorted(files, key=lambda file: file.relative) for name, files in groups.items()}


def _unreadable(
    root: Path, bad: Sequence[ImageFile], total: int, contents: Mapping[str, Checked]
) -> UsageError:
    hint = (
        "Repair or remove {it}, or set data.on_bad_image: skip to go on without {it}. A job that has begun: "
        "`nas resume JOB` after a repair, `nas resume JOB --accept-data` after a removal."
    )
    if len(bad) == 1:
        problem = contents[bad[0].relative].problem
        return UsageError(f"The image {bad[0].place} cannot be read: {problem}.", hint.format(it="it"))
    return UsageError(
        f"{len(bad)} of {total} images in '{shown(root)}' cannot be read: {_named(bad, contents)}.",
        hint.format(it="them"),
    )


def _named(files: Sequence[ImageFile], contents: Mapping[str, Checked]) -> str:
    names = [f"'{shown(f.relative)}' ({contents[f.relative].problem})" for f in files[:MOST_NAMED]]
    more = len(files) - MOST_NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _by_content(
    splits: Mapping[str, Iterable[ImageFile]], contents: Mapping[str, Checked]
) -> dict[str, list[tuple[str, ImageFile]]]:
    """The images, with their splits, of each content that there is more than once."""
    by_content: dict[str, list[tuple[str, ImageFile]]] = {}
    for name, files in splits.items():
        for file in files:
            by_content.setdefault(contents[file.relative].sha256, []).append((name, file))
    return {content: same for content, same in by_content.items() if len(same) > 1}


def _check_labels(
    root: Path,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[ImageFile]],
    contents: Mapping[str, Checked],
) -> None:
    several = [
        [file for _, file in same]
        for same in _by_content(splits, contents).values()
        if len({file.label for _, file in same}) > 1
    ]
    if not several:
        return
    pairs = []
    for files in several[:MOST_NAMED]:
        first = min(files, key=lambda file: file.relative)
        other = next(f for f in sorted(files, key=lambda f: f.relative) if f.label != first.label)
        pairs.append(f"'{shown(first.relative)}' and '{shown(other.relative)}'")
    more = f" and {len(several) - MOST_NAMED} more" if len(several) > MOST_NAMED else ""
    raise UsageError(
        f"Equal images lie in two classes of '{shown(root)}': {', '.join(pairs)}{more}.",
        "Remove them from the wrong class, or set data.on_equal_images: keep.",
    )


def _disjoint(
    splits: Mapping[str, list[ImageFile]], contents: Mapping[str, Checked], left_out: Counter[str]
) -> tuple[dict[str, list[ImageFile]], list[str]]:
    """The splits without images that another split holds out, too; and sentences that say so."""
    dropped: dict[str, str] = {}
    copies = 0
    for same in _by_content(splits, contents).values():
        present = {name for name, _ in same}
        keeps = next((name for name in HELD_OUT if name in present), "train")
        copies += len(same) - 1 if len(present) == 1 else 0
        stays = next(file for name, file in same if name == keeps)
        dropped |= {file.relative: stays.relative for name, file in same if name != keeps}
    left_out[EQUAL_HELD_OUT] += len(dropped)
    notes = []
    if dropped:
        pairs = [f"'{shown(a)}' is '{shown(b)}'" for a, b in sorted(dropped.items())[:MOST_NAMED]]
        more = f" and {len(dropped) - MOST_NAMED} more" if len(dropped) > MOST_NAMED else ""
        notes.append(
            f"{len(dropped)} images are left out because a split that is held out has equal ones: "
            f"{', '.join(pairs)}{more}."
        )
    if copies:
        notes.append(f"{copies} images are equal to another one of their own split.")
    kept = {name: [f for f in files if f.relative not in dropped] for name, files in splits.items()}
    return kept, notes


def _of_other_ranges(splits: Mapping[str, Iterable[ImageFile]], contents: Mapping[str, Checked]) -> list[str]:
    """A note on images whose values fill a smaller range than those of the others of their kind."""
    files = [file for part in splits.values() for file in part]
    depths = depths_of(contents[file.relative].look for file in files)
    dark = [file.relative for file in files if other_range(contents[file.relative].look, depths)]
    if not dark:
        return []
    return [
        f"{len(dark)} images have values of a much smaller range than others of their kind and are nearly "
        f"black beside them: {quoted(sorted(dark))}. Where they have fewer bits, scale them before."
    ]


def _check_filled(
    root: Path,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[ImageFile]],
    notes: Sequence[str],
) -> None:
    why = "".join(f" {note}" for note in notes)
    for name, files in splits.items():
        if not files:
            raise UsageError(
                f"No image of '{shown(root)}' is left in the split '{name}'.{why}",
                "Add different, readable images.",
            )
    empty = sorted(set(range(len(classes))) - {file.label for file in splits["train"]})
    if empty:
        raise UsageError(
            f"No image of class '{shown(classes[empty[0]])}' in '{shown(root)}' is left to train on.{why}",
            "Add different, readable images, or remove the class.",
        )
