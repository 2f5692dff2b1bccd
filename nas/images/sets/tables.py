"""Rows of Arrow and Parquet files, each an image and its label, as `datasets` and others write them.

Arrow files are mapped into memory; of Parquet files the row groups that were used last are kept.
"""

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from nas.artifacts import open_regular
from nas.images.checked import Checked, Stamp, Update, judged, stamp_of
from nas.images.decoding import Scale, UnreadableError, image_of
from nas.images.files import ImageFile, Row, alike, shown
from nas.images.options import check_integers
from nas.images.scan import Tree
from nas.images.selection import look, select
from nas.images.sets.image_options import ImageOptions, images_used, inputs_of
from nas.images.sets.image_set import ImageSet
from nas.images.sets.labels import NOT_USED, in_groups
from search_spaces.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = ".parquet"
GROUP_BYTES = 2**30  # of row groups that a process keeps
METADATA = b"huggingface"  # of a schema: what `datasets` says of the columns

Part = tuple[str, Path, list[Any]]  # the name of a file's split, the file, its labels


@dataclass(frozen=True)
class Tables:
    """Files with rows of images.

    root: the folder that they are below.  files: each with the name of its split, "" where it has none.
    image, label: the columns.
    """

    root: Path
    files: Sequence[tuple[str, Path]]
    image: str
    label: str


def image_set(name: str, tables: Tables, options: ImageOptions) -> ImageSet:
    """The data set of that name, made of tables. Raises UsageError for what cannot be used or is refused."""
    choice, inputs = images_used(options), inputs_of(options)
    tree, source = tree_of(tables), Rows(tables.root, tables.image)
    selection = select(tables.root, tree, source, choice, lambda done, total: None, threads=options.workers)
    return ImageSet(name, source, selection, inputs, options, splits_anew=True)


def look_at_rows(tables: Tables, update: Update, workers: int) -> None:
    """Reads and decodes every image that no data set has looked at before. Raises UsageError."""
    check_integers(workers=workers)
    look(tree_of(tables), Rows(tables.root, tables.image), update, threads=workers)


def tree_of(tables: Tables) -> Tree:
    """The rows by their splits, with the classes that their column of labels has.

    Raises UsageError for files that cannot be read, without these columns, rows or classes.
    """
    root, label = tables.root, tables.label
    if not tables.files:
        raise UsageError(f"There are no files with rows of images in '{shown(root)}'.", "Give their folder.")
    parts: list[Part] = []
    names: list[str] | None = None
    for split, path in tables.files:
        schema = _schema(path)
        _check_columns(path, schema, tables.image, label)
        names = names or _class_names(schema, label)
        parts.append((split, path, _labels(path, label)))
    classes, numbers = _classes(root, parts, names, label)
    rows: list[tuple[str, ImageFile]] = []
    for split, path, values in parts:
        relative = path.relative_to(root).as_posix()
        rows += [
            (split, Row(path, f"{relative}#{number}", numbers[value], 0, number))
            for number, value in enumerate(values)
        ]
    groups, unused = in_groups(rows)
    return Tree(classes, groups, +Counter({NOT_USED: unused}), alike(classes))


class Rows:
    """The images in a column of tables; see `nas.images.checked.Source`.

    root: below which files lie that rows name instead of holding them.
    """

    def __init__(self, root: Path, column: str) -> None:
        self.identity = f"{root.resolve()}\0rows of {column}"
        self._root, self._column = root, column
        self._forget()

    def _forget(self) -> None:
        self._tables: dict[Path, Callable[[int], Any]] = {}
        self._stamps: dict[Path, Stamp | None] = {}
        self._groups, self._lock = _Groups(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"identity": self.identity, "_root": self._root, "_column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    def stamp(self, image: ImageFile) -> Stamp | None:
        if image.path not in self._stamps:
            self._stamps[image.path] = stamp_of(image.path)
        return self._stamps[image.path]

    def check(self, image: ImageFile) -> Checked:
        try:
            return judged(self._content(image))
        except UnreadableError as error:
            return Checked(problem=str(error))

    def decoded(self, image: ImageFile, scale: Scale) -> Image.Image:
        return image_of(self._content(image), scale)

    def _content(self, image: ImageFile) -> bytes:
        assert isinstance(image, Row), "the images of tables are rows"
        import pyarrow as pa  # noqa: PLC0415 - heavy

        try:
            with self._lock:
                if image.path not in self._tables:
                    self._tables[image.path] = _opened(image.path, self._column, self._groups)
                value = self._tables[image.path](image.number)
        except (OSError, pa.ArrowException, IndexError) as error:
            raise UnreadableError(" ".join(str(error).split())[:200]) from error
        return _bytes_of(value, self._root)


class _Groups:
    """Columns of row groups of Parquet files, those used last, within GROUP_BYTES and at least one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[Path, int], read: Callable[[], Any]) -> Any:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        column = self._kept[key] = read()
        self._bytes += column.nbytes
        while self._bytes > GROUP_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return column


def _opened(path: Path, column: str, groups: _Groups) -> Callable[[int], Any]:
    """From the number of a row to what its column holds, as plain data."""
    if path.suffix != PARQUET:
        cells = _arrow_table(path).column(column)
        return lambda row: cells[row].as_py()
    file = _parquet_file(path)
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)

    def cell(row: int) -> Any:
        if row >= starts[-1]:
            raise IndexError(f"the file has only {starts[-1]} rows")
        group = next(group for group, end in enumerate(starts[1:]) if row < end)
        read = groups.get((path, group), lambda: file.read_row_group(group, columns=[column]).column(column))
        return read[row - starts[group]].as_py()

    return cell


def _arrow_table(path: Path) -> "pa.Table":
    """`datasets` writes streams; what other programs call Arrow or Feather files are files."""
    import pyarrow as pa  # noqa: PLC0415 - heavy

    with open_regular(path):
        mapped = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()


def _parquet_file(path: Path) -> Any:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    with open_regular(path):
        return pq.ParquetFile(path, memory_map=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong in reading a table, as a UsageError."""
    import pyarrow as pa  # noqa: PLC0415 - heavy

    kind = "Parquet" if path.suffix == PARQUET else "Arrow"
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"'{shown(path)}' cannot be read as a file of {kind}: {reason}.", "Write it again, or remove it."
        ) from error


def _schema(path: Path) -> "pa.Schema":
    with _reading(path):
        return _parquet_file(path).schema_arrow if path.suffix == PARQUET else _arrow_table(path).schema


def _labels(path: Path, column: str) -> list[Any]:
    """Integers or words. Raises UsageError for a row without one."""
    with _reading(path):
        table = _parquet_file(path).read(columns=[column]) if path.suffix == PARQUET else _arrow_table(path)
        labels: list[Any] = table.column(column).to_pylist()
    if None in labels:
        raise UsageError(
            f"Row {labels.index(None)} of '{shown(path)}' has no '{column}'.", "Remove such rows."
        )
    return [int(label) if isinstance(label, bool) else label for label in labels]


def _check_columns(path: Path, schema: "pa.Schema", image: str, label: str) -> None:
    import pyarrow as pa  # noqa: PLC0415 - heavy

    for option, column in (("image_column", image), ("label_column", label)):
        if column not in schema.names:
            raise UsageError(
                f"'{shown(path)}' has no column '{column}', but {', '.join(map(repr, schema.names[:20]))}.",
                did_you_mean(column, schema.names) or f"Name the right one as data.{option}.",
            )
    kind = schema.field(image).type
    fields = [field.name for field in kind] if pa.types.is_struct(kind) else []
    if not (_is_binary(kind) or ("bytes" in fields and _is_binary(kind.field("bytes").type))):
        raise UsageError(
            f"Column '{image}' of '{shown(path)}' holds {kind} and no images.",
            "An image is the bytes of its file, or a struct with a field `bytes`. Set data.image_column.",
        )
    kind = schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(test(kind) for test in (pa.types.is_integer, pa.types.is_boolean, _is_text)):
        raise UsageError(
            f"Column '{label}' of '{shown(path)}' holds {kind} and no labels.",
            "A label is a whole number or a word. Set data.label_column.",
        )


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415 - heavy

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415 - heavy

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _class_names(schema: "pa.Schema", column: str) -> list[str] | None:
    """As `datasets` keeps them in a schema; None: it does not say."""
    try:
        features = json.loads((schema.metadata or {})[METADATA])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    if isinstance(names, Mapping):
        names = list(names.values())
    return [str(name) for name in names] if isinstance(names, list) and names else None


def _classes(
    root: Path, parts: Sequence[Part], names: list[str] | None, column: str
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The names of the classes, and the number of each value that stands for one."""
    values = {value for _, _, some in parts for value in some}
    if not values:
        raise UsageError(f"The files in '{shown(root)}' have no rows.", "Give files with rows of images.")
    if len(values) < 2:
        raise UsageError(
            f"All rows in '{shown(root)}' are of one class ('{column}' is {values.pop()!r}); at least 2 are "
            "needed.",
            "Give files of all classes, or set data.label_column.",
        )
    if any(isinstance(value, str) for value in values):
        words = sorted(values, key=str)
        return tuple(map(str, words)), {word: number for number, word in enumerate(words)}
    _check_range(parts, column, len(names) if names is not None else None)
    if names is not None:
        return tuple(names), {number: number for number in range(len(names))}
    integers = sorted(values)
    return tuple(map(str, integers)), {value: number for number, value in enumerate(integers)}


def _check_range(parts: Sequence[Part], column: str, count: int | None) -> None:
    for _, path, values in parts:
        for row, value in enumerate(values):
            if value < 0 or (count is not None and value >= count):
                which = "below 0" if value < 0 else f"not below {count}, the number of named classes"
                raise UsageError(
                    f"Row {row} of '{shown(path)}' has the {column} {value}, which is {which}.",
                    "Remove rows without a label (some data sets have them in their test split).",
                )


def _bytes_of(value: Any, root: Path) -> bytes:
    """The bytes of an image's file: in the row, or in a file that it names."""
    if isinstance(value, dict):
        name = value.get("path")
        if value.get("bytes") is None and isinstance(name, str):
            path = (root / name).resolve()
            if not path.is_relative_to(root.resolve()):
                raise UnreadableError(f"its row names the file '{shown(name)}', which is not below data.root")
            try:
                with open_regular(path) as file:
                    return file.read()
            except OSError as error:
                raise UnreadableError(f"its file '{shown(path)}': {error.strerror or error}") from error
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise UnreadableError("its row holds no image")
    return value
