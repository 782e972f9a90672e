"""Labels from a table in place of class folders: CSV, TSV, Parquet or JSON lines (light: the standard library only).

In: a file with the columns path, label and, optionally, split; the folder that relative paths start from. Out: a `Survey`, as
of a folder, with a `Fault` for every row that contradicts another. No image is opened: each folder is listed once, which is
faster than a look at every file. docs/data.md describes the file.
"""

import csv
import gc
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any
from unicodedata import normalize

from resnet_cli.data.dataset import Dataset, LabelsFile, Survey, require_folder, usable
from resnet_cli.data.folders import EXTENSIONS, MISSING, LeftOut, Listing, meant, printable, why_no_image, wrong_name
from resnet_cli.data.layout import Fault, some_names, split_of
from resnet_cli.errors import ResnetError
from resnet_cli.progress import how_many

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
NO_LABEL = "its label is empty"
_EXAMPLE = "begin the file with a line such as path,label or path,label,split"
# Column names, in lower case without spaces and signs. Those of a later group are used if none of an earlier one is there.
_PATH = (
    {"path"},
    {"filepath", "filename", "file", "imagepath", "imagefile", "imagename", "image", "img", "imgpath", "photo"},
    {"id", "imageid", "imgid"},
)
_LABEL = ({"label"}, {"labels", "class", "classname", "labelname", "category", "target"}, {"classid", "labelid"})
_SPLIT = ({"split"}, {"set", "subset", "partition"})
_NAMED = 3  # files named in an error


@dataclass(frozen=True)
class _Table:
    """The rows of a file as columns of text without surrounding spaces; `splits` is empty without such a column."""

    file: LabelsFile
    paths: list[str]
    labels: list[str]
    splits: list[str]
    rows: Sequence[int]  # their numbers in messages: lines of JSON lines and rows of a spreadsheet

    def at(self, index: int) -> str:
        """Where a row is, for a message."""
        return f"{self.file.path}, row {self.rows[index]}"


@contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of new objects and no garbage: looking for it takes as long as everything else."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_collection()
def scan_labels(file: Path, root: Path, strict: bool = False) -> Dataset:
    """Read a table of labels as a data set; see `survey_labels`, whose faults are raised."""
    return usable(survey_labels(file, root, strict))


@_without_collection()
def survey_labels(file: Path, root: Path, strict: bool = False) -> Survey:
    """Read a table of labels and look for its files.

    Args:
        file: the table; its kind is told by its ending, one of `ENDINGS`.
        root: the folder that relative paths start from.
        strict: a row without a label, or whose file is missing or no image, is an error; otherwise it is left out.

    Raises:
        ResnetError: the table cannot be read, has no columns of paths and labels, or no rows; there is no such folder; or a row
            is left out and `strict`.
    """
    table = _read(file)
    require_folder(root)
    found = _Sorted(table, root)
    found.sort_rows()
    left_out = [each for files in found.left_out.values() for each in files]
    if strict and left_out:
        raise _about_left_out(left_out, table, root)
    return found.survey()


def _read(file: Path) -> _Table:
    read = {".csv": _of_csv, ".tsv": _of_csv, ".parquet": _of_parquet, ".jsonl": _of_jsonl}.get(file.suffix.lower())
    if read is None:
        raise ResnetError(f"--labels {file} is not a table that can be read", "give a .csv, .tsv, .parquet or .jsonl file")
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ResnetError(f"there is no file {file}", "give a table with the columns path and label") from None
    except OSError as error:
        raise ResnetError(f"{file} cannot be read: {error.strerror}", "name a file that can be read") from error
    columns, rows = read(file, content)
    path, label, *split = [[each.strip() for each in column] for column in columns]
    if not path:
        raise ResnetError(f"{file} has no rows", "add a row for each image")
    known = LabelsFile(file, hashlib.sha256(content).hexdigest())
    return _Table(known, path, label, split[0] if split else [], rows)


Columns = tuple[list[list[str]], Sequence[int]]  # paths, labels and perhaps splits; the numbers of the rows


def _of_csv(file: Path, content: bytes) -> Columns:
    text = _text(file, content)
    told = re.match(r"\"?sep=(.)\"?\r?\n", text)  # Excel's own hint
    text, begun = (text[told.end() :], 2) if told else (text, 1)
    delimiter = told[1] if told else _delimiter(text.partition("\n")[0])
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        everything = list(lines)
    except csv.Error as error:
        place = f"{file} cannot be read at line {lines.line_num + begun - 1}: {error}"
        raise ResnetError(place, "a quote that is not closed does that: save the table again as CSV") from error
    header = everything[0] if everything else []
    where = _where(file, header)
    table, rows = everything[1:], list(range(begun + 1, begun + len(everything)))
    if not all(map(any, table)):  # empty rows, and rows of empty cells
        table, rows = [row for row in table if any(row)], [number for number, row in zip(rows, table, strict=True) if any(row)]
    width = len(header)
    for number, row in zip(rows, table, strict=True):
        if len(row) != width and (len(row) < width or any(row[width:])):
            message = f"{file}, row {number}, has {how_many(len(row), 'cell')}, and the first row {width}"
            raise ResnetError(message, f"put text that holds a {delimiter!r} in quotes")
    return [list(map(itemgetter(index), table)) for index in where], rows


def _text(file: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        coding = "utf-16"
    elif b"\0" in content[:4]:  # ASCII in UTF-16 without a byte order mark
        coding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    else:
        coding = "utf-8-sig"
    try:
        return content.decode(coding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ResnetError(
            f"line {line} of {file} is not valid {coding[:6].rstrip('-').upper()}", "save it as CSV UTF-8"
        ) from error


def _delimiter(first: str) -> str:
    """The sign between the cells of the first line: the most frequent one outside of quotes."""
    bare = re.sub(r'"[^"]*"', "", first)
    return max(",;\t|", key=bare.count)


def _where(file: Path, header: Sequence[str]) -> list[int]:
    """Positions of the columns of paths, labels and, if there is one, splits."""
    plain = [re.sub(r"[\W_]+", "", name).lower() for name in header]
    shown = printable(Path(", ".join(header)[:80])) if header else "nothing"
    places = []
    for what, groups in (("path", _PATH), ("label", _LABEL), ("split", _SPLIT)):
        found = next(filter(None, ([i for i, name in enumerate(plain) if name in group] for group in groups)), [])
        if len(found) > 1:
            names = some_names([header[index] for index in found])
            raise ResnetError(f"{file} has several columns that may be the {what}: {names}", f"name one of them {what}")
        if not found and what != "split":
            raise ResnetError(f"{file} has no column {what}: it begins with {shown}", _EXAMPLE)
        places += found
    return places


def _of_parquet(file: Path, content: bytes) -> Columns:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ResnetError(f"{file} needs the package pyarrow", "pip install 'resnet-cli[parquet]'") from error
    try:
        opened = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        names = opened.schema_arrow.names
        chosen = [names[index] for index in _where(file, names)]
        columns = [opened.read(columns=[name]).column(0).to_pylist() for name in chosen]
        if len(set(map(len, columns))) > 1:
            raise ValueError("its columns are not equally long")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        why = printable(Path(str(error).strip()[:200]))
        raise ResnetError(f"{file} is not a Parquet file that can be read: {why}", "write it again") from error
    rows = range(1, len(columns[0]) + 1)
    return [_texts(file, name, column, rows) for name, column in zip(chosen, columns, strict=True)], rows


def _of_jsonl(file: Path, content: bytes) -> Columns:
    found: list[dict[str, Any]] = []
    rows: list[int] = []
    for number, line in enumerate(_text(file, content).split("\n"), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ResnetError(f"line {number} of {file} is not JSON: {error}", "write one object per line") from error
        if not isinstance(row, dict):
            raise ResnetError(f"line {number} of {file} is not an object", 'write {"path": ..., "label": ...} per line')
        if row:
            found.append(row)
            rows.append(number)
    header = list(dict.fromkeys(name for row in found for name in row))
    chosen = [header[index] for index in _where(file, header)]
    return [_texts(file, name, [row.get(name) for row in found], rows) for name in chosen], rows


def _texts(file: Path, name: str, values: Sequence[object], rows: Sequence[int]) -> list[str]:
    """Values as text: whole numbers without a point, and nothing for null."""
    kinds = set(map(type, values))
    if kinds <= {str}:
        return list(values)  # type: ignore[arg-type]
    for number, value in zip(rows, values, strict=True):
        if value is not None and not isinstance(value, str | int | float):
            what = f"row {number}, is neither text nor a number but {type(value).__name__}"
            raise ResnetError(f"{name} in {file}, {what}", "give one text or number per row")
    missing = (each is None or each != each for each in values)
    whole = (isinstance(each, float) and each.is_integer() for each in values)
    return ["" if no else str(int(each) if it else each) for each, no, it in zip(values, missing, whole, strict=True)]  # type: ignore[call-overload]


_Found = tuple[str, str, str]  # path of a file, why it is left out (or ""), and its place without links and dots


def _look_up(root: Path, paths: Iterable[str]) -> tuple[dict[str, _Found], list[str]]:
    """The files of different paths, each folder listed once; and the relative paths that lead out of the folder."""
    inside = f"{os.path.abspath(root)}{os.sep}"  # noqa: PTH100 -- Path.absolute keeps dots
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    outside: list[str] = []
    for raw in paths:
        path = raw.replace("\\", "/") if "\\" in raw else raw
        if "//" in path or "./" in path or path[:1] == "." or path[-1:] in ("/", "."):
            path = os.path.normpath(path)
        if path[:1] == "/":
            path = path.removeprefix(inside)
        elif path == ".." or path.startswith("../"):
            outside.append(raw)
            continue
        name = path.rpartition("/")[2]
        by_folder[path[: len(path) - len(name)]].append((raw, name))
    found: dict[str, _Found] = {}
    for folder, wanted in by_folder.items():
        found.update(_of_folder(os.path.join(root, folder, ""), wanted))  # noqa: PTH118 -- a slash at the end
    return found, outside


def _of_folder(folder: str, wanted: list[tuple[str, str]]) -> Iterator[tuple[str, _Found]]:
    """The files of one folder, given with a slash at its end, as pairs of a path as written and a name."""
    names = {name for _, name in wanted}
    for name in [name for name in names if not name.isascii()]:  # macOS stores accents separately
        names |= {normalize("NFC", name), normalize("NFD", name)}
    there, absent, real = {}, MISSING, ""
    try:
        with suppress(FileNotFoundError, NotADirectoryError, ValueError), os.scandir(folder) as listed:  # or a zero byte
            there = {entry.name: entry for entry in listed if entry.name in names}
            real = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118
    except OSError as error:
        absent = f"its folder cannot be read: {error.strerror}"
    for raw, name in wanted:
        entry = there.get(name) or there.get(normalize("NFC", name)) or there.get(normalize("NFD", name))
        if entry is None:
            yield raw, (folder + name, absent, "")
            continue
        is_plain = name[name.rfind(".") :].lower() in EXTENSIONS and not entry.is_symlink() and entry.is_file()
        reason = "" if is_plain else why_no_image(entry)
        yield raw, (folder + entry.name, reason, real + entry.name if is_plain else os.path.realpath(entry.path))


@dataclass(frozen=True)
class _Sorted:
    """The rows of a table by split and class, and what is wrong with them; filled by `sort_rows`."""

    table: _Table
    root: Path
    images: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    left_out: dict[tuple[str, str], list[LeftOut]] = field(default_factory=lambda: defaultdict(list))
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def sort_rows(self) -> None:
        """Put every row in its place, or among the faults; the first of several rows of a file counts."""
        table = self.table
        splits = self._splits()
        self._look_at_labels()
        unique = dict.fromkeys(table.paths)
        if "" in unique:
            self._fault("no-path", table.paths.index(""), "has no path", "write the path of an image, or remove the row")
            del unique[""]
        found, outside = _look_up(self.root, unique)
        for raw in outside:
            message = f"names {printable(Path(raw))}, which is outside of {self.root}"
            self._fault("outside", table.paths.index(raw), message, "give a folder that holds all images, or absolute paths")
        first: dict[str, int] = {}
        again = 0
        for index, (raw, label, split) in enumerate(zip(table.paths, table.labels, splits, strict=True)):
            if raw not in found:
                continue
            path, reason, place = found[raw]
            if before := first.setdefault(place or path, index) != index:
                again += self._is_repeated(first[place or path], index, splits)
            elif reason or not label:
                self.left_out[split, label].append(LeftOut(printable(Path(path)), reason or NO_LABEL))
            elif not before:
                self.images[split, label].append(path)
        if again:
            rows = how_many(again, "row")
            self.notes.append(
                f"{table.file.path} has {rows} of a file that an earlier row names with the same label: it counts once"
            )

    def _is_repeated(self, first: int, later: int, splits: Sequence[str]) -> bool:
        """Whether a later row of a file says the same; otherwise it is a fault."""
        table = self.table
        what = printable(Path(table.paths[later]))
        other = printable(Path(table.paths[first]))
        also = f" ({other})" if other != what else ""
        for kind, values, hint in (
            ("two-labels", table.labels, "keep one of the rows"),
            ("in-two-splits", splits, "keep an image in one split"),
        ):
            if values[first] != values[later]:
                one, two = (printable(Path(values[index] or "nothing")) for index in (first, later))
                message = f"says {two} for {what}, and row {table.rows[first]}{also} says {one}"
                self._fault(kind, later, message, hint)
                return False
        return True

    def _splits(self) -> list[str]:
        """The split of every row: train, val or test; "all" in a table without splits."""
        table = self.table
        if not any(table.splits):
            return ["all"] * len(table.paths)
        meaning: dict[str, str] = {}
        for word in dict.fromkeys(table.splits):
            told = split_of(word)
            meaning[word] = told[0] if told and told[1] else ""
            if not meaning[word]:
                message = f"has the split {printable(Path(word))}" if word else "has no split, and other rows have one"
                hint = "write train, val or test" if word else "write train, val or test in every row, or in none"
                self._fault("unknown-split", table.splits.index(word), message, hint)
        return [meaning[word] for word in table.splits]

    def _look_at_labels(self) -> None:
        """Refuse labels that are not one line of text, and those that only look different."""
        table = self.table
        seen: dict[str, str] = {}
        folded: dict[str, str] = {}
        for label in dict.fromkeys(table.labels):
            index = table.labels.index(label) if wrong_name(label) else -1
            if index >= 0:
                self._fault(
                    "bad-name", index, f"has a label {str(printable(Path(label)))!r} that {wrong_name(label)}", "change it"
                )
            same = " ".join(normalize("NFC", label).split())
            if (other := seen.setdefault(same, label)) != label:
                message = f"has the label {label!r}, which looks like the label {other!r}"
                self._fault("two-spellings", table.labels.index(label), message, "write it the same in every row")
            elif (alike := folded.setdefault(same.casefold(), label)) != label:
                self.notes.append(f"the labels {alike} and {label} differ in upper and lower case only, and are two classes")

    def _fault(self, kind: str, index: int, message: str, hint: str) -> None:
        self.faults.append(Fault(kind, self.table.file.path, f"{self.table.at(index)}, {message}", hint))

    def survey(self) -> Survey:
        """The survey of the sorted rows; every class is in every split, perhaps without images."""
        found = {*self.images, *self.left_out}
        splits = [name for name in ("train", "val", "test", "all") if any(split == name for split, _ in found)] or ["all"]
        names = sorted({label for _, label in found if label})
        classes = {split: {name: self._listing(split, name) for name in names} for split in splits}
        nameless = tuple(each for (_, label), files in self.left_out.items() if not label for each in files)
        folders = dict.fromkeys(splits, self.root)
        broken, notes = tuple(self.faults), tuple(self.notes)
        return Survey(self.root, folders, classes, nameless, 0, (), broken, self.table.file, notes)

    def _listing(self, split: str, name: str) -> Listing:
        images = sorted(self.images.get((split, name), ()), key=lambda path: path.split("/"))
        return Listing(tuple(map(Path, images)), tuple(self.left_out.get((split, name), ())), 0)


def _about_left_out(files: Sequence[LeftOut], table: _Table, root: Path) -> ResnetError:
    """The error for rows that are left out without `strict`: the first few, their number, and what may be meant."""
    shown = "; ".join(f"{each.path}: {each.reason}" for each in files[:_NAMED])
    more = f"; and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    message = f"{len(files)} of {how_many(len(table.paths), 'row')} of {table.file.path} cannot be used: {shown}{more}"
    return ResnetError(message, meant(files[0].path, root) or "without --strict they are left out")
