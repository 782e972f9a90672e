"""The input and the output folder of a bulk prediction: the list of its images, in numbered blocks, and which are finished
(light: pyarrow is imported when a call needs it).

In: a Parquet file of paths, a folder or a pattern. Out: bulk.json (what the folder holds, written when the list is complete),
list/ (every path, once) and predictions/ (a Parquet file per finished block, complete or absent). No list of all images is ever
in memory.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from resnet_cli.data.storage import (
    PARQUET,
    Place,
    children,
    exists,
    find_place,
    images_of,
    import_pyarrow,
    is_directory,
    matching_files,
    read_bytes,
    telling,
    write_whole,
)
from resnet_cli.data.threads import Pause, map_arriving
from resnet_cli.errors import ResnetError

MANIFEST, LIST, PREDICTIONS, SUMMARY = "bulk.json", "list", "predictions", "summary.json"
CHUNK = 8192  # rows of a row group of the list; a block is a part of one
_PART = 128 * CHUNK  # rows of a file of the list
# All sizes are multiples of the largest batch, so that the images of a batch are those of `predict` without Ray.
_SMALLEST = 256
_BLOCKS = 64  # a list has at least so many blocks, if they are not smaller than that, for restarts and an even load
_PATHS = ("path", "image", "uri", "url", "file", "filename")
_CLASSES = ("label", "class", "labels")
_TEXT = ("string", "large_string", "string_view")  # types of pyarrow; a dictionary has one of them as its values
_BLOCK = re.compile(r"block-(\d{6,})" + re.escape(PARQUET))
_AT_ONCE = 32  # files of another machine read at once

Names = list[str]
Chunk = tuple[Names, Names | None]  # up to `CHUNK` names, and their classes if they have any


@dataclass(frozen=True)
class Manifest:
    """What an output folder holds: bulk.json.

    Attributes:
        input: the input, absolute.
        fingerprint: SHA-256 of the names of all images; of a table, of its files' names, sizes and times.
        model: SHA-256 of each classifier.
        options: options that change the results.
        images: number of images.
        block: images of a block.
        notes: remarks on what the list leaves out.
    """

    input: str
    fingerprint: str
    model: list[str]
    options: dict[str, Any]
    images: int
    block: int
    notes: list[str] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.images // self.block)


@dataclass(frozen=True)
class Input:
    """The images to classify.

    Attributes:
        name: the input, absolute.
        base: folder that relative names start from.
        chunks: lists them, with their classes if they are asked for.
        fingerprint: of a table's files; None for a folder, whose list has to be read.
        notes: remarks on what was left out, when the images have been listed.
    """

    name: str
    base: Place
    chunks: Callable[[], Iterator[Chunk]]
    fingerprint: str | None
    notes: Callable[[], list[str]] = list


class _Skipped:
    """Counts the files of a folder that are not images."""

    def __init__(self) -> None:
        self._count, self._first = 0, ""

    def __call__(self, name: str) -> None:
        self._count += 1
        self._first = self._first or name

    def notes(self) -> list[str]:
        what = "1 file that is not an image" if self._count == 1 else f"{self._count} files that are not images"
        return [f"skipped {what} (first: {self._first})"] if self._count else []


def find_input(word: str, with_labels: bool) -> Input:
    """The images of a Parquet file, of several, of a folder or of a pattern.

    Args:
        word: a path, URL or pattern.
        with_labels: a table must have a column of classes.

    Raises:
        ResnetError: there is no such place, it has no images, it has images and tables, or a table has no column of paths.
    """
    place = find_place(word)
    tables = _tables(word, place)
    if tables:
        for table in tables:
            _columns(table, with_labels)
        marks = [(table.name, info.size, info.mtime_ns) for table in tables for info in [table.files.get_file_info(table.path)]]
        return Input(place.name, tables[0].parent, lambda: _rows(tables, with_labels), _hash([repr(marks)]))
    if next(images_of(word, place, lambda name: None), None) is None:
        hint = "give a folder of JPEG, PNG, WebP or HEIC files, or a .parquet file of paths"
        raise ResnetError(f"there are no images in {word}", hint)
    base, skipped = find_place(".") if place.is_local else place, _Skipped()

    def chunks() -> Iterator[Chunk]:
        return ((chunk, None) for chunk in _cut(images_of(word, place, skipped)))

    return Input(place.name, base, chunks, None, skipped.notes)


def _tables(word: str, place: Place) -> list[Place]:
    """The Parquet files that a word names, sorted; none if it names images."""
    if place.path.endswith(PARQUET) and not exists(place):
        return list(matching_files(place)) or [place]
    if is_directory(place):
        tables = [place.inside(name) for name, is_dir in children(place) if name.endswith(PARQUET) and not is_dir]
        image = next(images_of(word, place, lambda name: None), None) if tables else None
        if image is not None:
            raise ResnetError(
                f"{word} holds both images and tables, such as {image} and {tables[0].name}",
                f"give the table itself or a pattern such as '{word.rstrip('/')}/*{PARQUET}', or move it out of the folder",
            )
        return tables
    return [place] if place.path.endswith(PARQUET) else []


def _opened(place: Place, hint: str = "") -> Any:
    pyarrow = import_pyarrow("--input")
    with _told_if_damaged(place, hint):
        return pyarrow.parquet.ParquetFile(place.files.open_input_file(place.path))


@contextmanager
def _told_if_damaged(place: Place, hint: str = "") -> Iterator[None]:
    pyarrow = import_pyarrow("--input")
    with telling(place.name):
        try:
            yield
        except pyarrow.ArrowInvalid as error:
            raise ResnetError(f"{place.name} is not a Parquet file, or is damaged", hint) from error


def _columns(table: Place, with_labels: bool) -> list[str]:
    """The names of the columns of paths and, if asked for, of classes."""
    pyarrow, schema = import_pyarrow("--input"), _opened(table).schema_arrow
    there, columns = schema.names, []
    for known, what in ((_PATHS, "paths"), (_CLASSES, "classes"))[: 1 + with_labels]:
        column = next((name for name in known if name in there), None)
        if column is None:
            raise ResnetError(
                f"{table.name} has no column of {what}: its columns are {', '.join(there)}",
                f"name the column of {what} `{known[0]}`",
            )
        kind = schema.types[there.index(column)]
        if str(kind.value_type if pyarrow.types.is_dictionary(kind) else kind) not in _TEXT:
            raise ResnetError(f"{table.name}: the column {column} has {what} of type {kind}", "write it as a column of strings")
        columns.append(column)
    return columns


def _rows(tables: Sequence[Place], with_labels: bool) -> Iterator[Chunk]:
    """The rows of tables, in chunks of `CHUNK`, whatever row groups they have."""

    def rows() -> Iterator[tuple[str, str]]:
        for table in tables:
            columns = _columns(table, with_labels)
            row = 0
            for pieces in _batches(table, columns):
                for values in zip(*pieces, strict=True):
                    row += 1
                    if not all(isinstance(value, str) and value for value in values):
                        raise ResnetError(
                            f"{table.name}: row {row} has no {columns[values.index(None)] if None in values else 'text'}"
                        )
                    yield values[0], values[-1]

    for chunk in _cut(rows()):
        yield [name for name, _ in chunk], [label for _, label in chunk] if with_labels else None


def _batches(table: Place, columns: Sequence[str]) -> Iterator[list[list[Any]]]:
    """The values of columns of text, in pieces."""
    before = 0
    with _told_if_damaged(table):
        for batch in _opened(table).iter_batches(CHUNK, columns=list(columns)):
            yield [_texts(values, f"{table.name}: the {name}", before) for name, values in zip(columns, batch, strict=True)]
            before += len(batch)


def _texts(values: Any, what: str, before: int) -> list[Any]:
    """The values of a column of pyarrow, after so many rows before them."""
    try:
        return list(values.to_pylist())
    except UnicodeDecodeError:
        return [_text(value, f"{what} of row {row}") for row, value in enumerate(values, before + 1)]


def _text(value: Any, what: str) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise ResnetError(f"{what} is not UTF-8", "write the table again from text in UTF-8") from error


def _cut(items: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, CHUNK)):
        yield chunk


def _hash(pieces: Iterable[str], digest: Any = None) -> str:
    """SHA-256 of pieces of text, hexadecimal; of those after earlier ones, if their digest is given."""
    digest = digest or hashlib.sha256()
    for piece in pieces:
        digest.update(piece.encode(errors="surrogateescape") + b"\0")
    return str(digest.hexdigest())


def fingerprint_of(found: Input) -> str:
    """The fingerprint of an input, which changes if its list changes; a folder is listed for it."""
    return found.fingerprint or _hash(name for names, _ in found.chunks() for name in names)


def read_manifest(folder: Place) -> Manifest | None:
    """What a folder holds; None if it is new, or its list was not completed.

    Raises:
        ResnetError: it holds files that are not from a bulk prediction.
    """
    names = [name for name, _ in children(folder)]
    if MANIFEST in names:
        try:
            return Manifest(**json.loads(read_bytes(folder.inside(MANIFEST)))["bulk"])
        except (ValueError, KeyError, TypeError) as error:
            raise ResnetError(f"{folder.inside(MANIFEST).name} is damaged", "choose another --output") from error
    others = [name for name in names if name != LIST and not name.startswith(".")]
    if others:
        raise ResnetError(f"{folder.name} contains {others[0]}, which is not from a bulk prediction", "choose another --output")
    return None


def write_manifest(folder: Place, manifest: Manifest) -> None:
    """Write bulk.json."""
    write_whole(folder.inside(MANIFEST), json.dumps({"bulk": asdict(manifest)}, indent=2).encode())


def write_list(folder: Place, found: Input) -> tuple[int, str]:
    """Write the list of all images; returns their number and the fingerprint.

    Raises:
        ResnetError: the input cannot be read, or the folder cannot be written.
    """
    pyarrow = import_pyarrow("--input")
    count, digest = 0, hashlib.sha256()
    chunks = _recut(found.chunks())
    for number in itertools.count():
        part = itertools.islice(chunks, _PART // CHUNK)
        first = next(part, None)
        if first is None:
            break
        target = _part(folder, number)
        with telling(folder.name):
            target.files.create_dir(target.parent.path, recursive=True)
            stream = target.files.open_output_stream(target.path)
        writer = None
        with stream:
            for names, labels in itertools.chain([first], part):
                table = pyarrow.table({"path": names} if labels is None else {"path": names, "label": labels})
                writer = writer or pyarrow.parquet.ParquetWriter(stream, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=CHUNK)
                count += len(names)
                _hash(names, digest)
            if writer is not None:
                writer.close()
    return count, found.fingerprint or digest.hexdigest()


def _recut(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The same rows in chunks of `CHUNK`, but for the last one."""
    pairs = (zip(names, labels or itertools.repeat(None), strict=False) for names, labels in chunks)
    rows = itertools.chain.from_iterable(pairs)
    for some in _cut(rows):
        labels = [label for _, label in some]
        yield [name for name, _ in some], None if labels[0] is None else labels


def _part(folder: Place, number: int) -> Place:
    return folder.inside(LIST, f"part-{number:05}{PARQUET}")


def block_size(images: int, workers: int) -> int:
    """Images of a block: a power of two from 256 to 8192, so that there are enough blocks for all workers."""
    size = _SMALLEST
    while 2 * size <= CHUNK and images // (2 * size) >= max(_BLOCKS, 8 * workers):
        size *= 2
    return size


def read_block(folder: Place, manifest: Manifest, number: int) -> Chunk:
    """The names of a block's images, and their classes if the list has them."""
    start = number * manifest.block
    part, row = divmod(start, _PART)
    group, row = divmod(row, CHUNK)
    with telling(folder.name):
        table = _opened(_part(folder, part)).read_row_group(group).slice(row, manifest.block)
    labels = table["label"].to_pylist() if "label" in table.column_names else None
    return table["path"].to_pylist(), labels


def block_file(folder: Place, number: int) -> Place:
    """The file of a finished block."""
    return folder.inside(PREDICTIONS, f"block-{number:06}{PARQUET}")


def finished_blocks(folder: Place) -> set[int]:
    """The numbers of the finished blocks.

    Raises:
        ResnetError: there is another table among them, such as a copy, whose rows would be there twice.
    """
    predictions, found = folder.inside(PREDICTIONS), set()
    for name, _ in children(predictions):
        if match := _BLOCK.fullmatch(name):
            found.add(int(match[1]))
        elif name.endswith(PARQUET) and not name.startswith("."):
            hint = "move it away: its rows would be read together with those of the blocks"
            raise ResnetError(f"{predictions.inside(name).name} is not a file of this command", hint)
    return found


_NOTES = b"resnet"  # key of a block file's metadata
_CLASSIFY = "delete it and type the same command again, which classifies its images again"


def write_block(folder: Place, number: int, table: Any, notes: dict[str, Any]) -> None:
    """Write the file of a block, complete or not at all.

    Args:
        folder: the output folder.
        number: of the block.
        table: its rows, of pyarrow.
        notes: what `read_notes` returns later.
    """
    pyarrow = import_pyarrow("--output")
    sink = pyarrow.BufferOutputStream()
    table = table.replace_schema_metadata({_NOTES: json.dumps(notes)})
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    write_whole(block_file(folder, number), memoryview(sink.getvalue()))


def read_notes(folder: Place, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The notes of finished blocks."""

    def notes(number: int) -> dict[str, Any]:
        metadata = _opened(block_file(folder, number), _CLASSIFY).schema_arrow.metadata or {}
        if _NOTES not in metadata:
            raise ResnetError(f"{block_file(folder, number).name} is not a file of this command", _CLASSIFY)
        found: dict[str, Any] = json.loads(metadata[_NOTES])
        return found

    found = map_arriving(notes, numbers, _AT_ONCE, _AT_ONCE)
    return (each for each in found if not isinstance(each, Pause))


def read_rows(folder: Place, manifest: Manifest, columns: Sequence[str]) -> Iterator[Any]:
    """The rows of all blocks in the order of the list, a table of pyarrow per block."""
    for number in range(manifest.blocks):
        with _told_if_damaged(block_file(folder, number), _CLASSIFY):
            table = _opened(block_file(folder, number), _CLASSIFY).read(columns=list(columns))
        yield table
