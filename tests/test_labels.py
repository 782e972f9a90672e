"""Labels from a table in place of class folders: CSV as pandas, Excel and Kaggle write it, Parquet, JSON lines."""

import csv
import hashlib
import json
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import MakeDataset, MakeImage, MakeRun, RunCli

import resnet_cli as resnet
from resnet_cli.data.dataset import Dataset, scan_dataset
from resnet_cli.data.labels import scan_labels
from resnet_cli.errors import ResnetError

Row = Sequence[str]
FRUIT = ("apple", "berry", "cherry")


def write_table(path: Path, rows: Sequence[Row], header: Row = ("path", "label"), delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def rows_of(root: Path, below: str = "") -> list[tuple[str, str]]:
    """Path and label of every image of a folder with class folders, in no order."""
    real = [path for path in (root / below).glob("*/*.png") if not path.parent.is_symlink()]
    files = sorted(real, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    return [(path.relative_to(root).as_posix(), path.parent.name) for path in files]


def simple(dataset: Dataset) -> dict[str, list[tuple[str, str]]]:
    """The images of each split with their classes."""
    return {
        split: [(sample.path.as_posix(), dataset.classes[sample.label]) for sample in samples]
        for split, samples in dataset.splits.items()
    }


def refusal(table: Path, root: Path | None = None, strict: bool = False) -> tuple[str, str]:
    """The message and the hint for a table."""
    with pytest.raises(ResnetError) as caught:
        scan_labels(table, root or table.parent, strict)
    return caught.value.message, caught.value.hint


@pytest.fixture
def table(tiny_dataset: Path) -> Path:
    """labels.csv in the folder `fruit`, with all of its images in no order."""
    return write_table(tiny_dataset / "labels.csv", rows_of(tiny_dataset))


@pytest.fixture
def change(tiny_dataset: Path) -> Callable[..., Path]:
    """`change((row, ...), drop=0, header=...)`: the table of `fruit` without its first rows and with others at its end."""

    def write(*more: Row, drop: int = 0, header: Row = ("path", "label")) -> Path:
        wide = [(*row, "train")[: len(header)] for row in rows_of(tiny_dataset)[drop:]]
        return write_table(tiny_dataset / "changed.csv", [*wide, *more], header)

    return write


def test_a_table_gives_the_same_data_set_as_class_folders(tiny_dataset: Path, table: Path) -> None:
    labelled, foldered = scan_labels(table, tiny_dataset), scan_dataset(tiny_dataset)
    assert (labelled.classes, labelled.splits) == (foldered.classes, foldered.splits)
    assert labelled.labels is not None
    assert labelled.labels.sha256 == hashlib.sha256(table.read_bytes()).hexdigest()


def test_splits_are_named_by_the_words_that_name_folders(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset(tmp_path / "fruit", count=3)
    words = {"000": "Training", "001": "valid", "002": "TEST"}
    rows = [(path, label, words[Path(path).stem]) for path, label in rows_of(tmp_path / "fruit")]
    dataset = scan_labels(write_table(tmp_path / "fruit" / "l.csv", rows, ("file", "class", "set")), tmp_path / "fruit")
    assert {split: [sample.path.name for sample in those] for split, those in dataset.splits.items()} == {
        "train": ["000.png"] * 3,
        "val": ["001.png"] * 3,
        "test": ["002.png"] * 3,
    }


@pytest.mark.parametrize(
    ("name", "encoding", "delimiter", "first"),
    [
        ("labels.csv", "utf-8", ",", ""),
        ("labels.csv", "utf-8-sig", ";", ""),
        ("labels.csv", "utf-16", "\t", ""),
        ("labels.csv", "utf-16-le", ",", ""),
        ("LABELS.CSV", "utf-8", ";", "sep=;\n"),
        ("labels.tsv", "utf-8", "\t", ""),
    ],
)
def test_csv_is_read_as_programs_write_it(
    name: str, encoding: str, delimiter: str, first: str, tmp_path: Path, make_image: MakeImage
) -> None:
    rows = []
    for number, (file, label) in enumerate([("a,1.png", "Käse; Brot"), ('b"2".png', "Käse; Brot"), ("c.png", "tea")]):
        make_image(tmp_path / file, seed=number)
        rows.append((file, label))
    plain = write_table(tmp_path / "plain", [*rows, ("", "")], ("Image Name", "Class"), delimiter)
    text = plain.read_text(encoding="utf-8")
    (tmp_path / name).write_text(f"{first}{text}", encoding=encoding, newline="")
    dataset = scan_labels(tmp_path / name, tmp_path)
    assert [(Path(path).name, label) for path, label in simple(dataset)["all"]] == rows


def test_parquet_and_json_lines_are_read_like_csv(tiny_dataset: Path, table: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = rows_of(tiny_dataset)
    numbers = [float(FRUIT.index(label)) for _, label in rows]
    columns = {"filename": [path for path, _ in rows], "target": numbers, "weight": [None] * len(rows)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tiny_dataset / "labels.parquet")
    lines = [json.dumps({"file_name": path, "label": label, "box": [1, 2]}) for path, label in rows]
    (tiny_dataset / "metadata.jsonl").write_text("\n\n".join(lines))
    expected = scan_labels(table, tiny_dataset)
    assert scan_labels(tiny_dataset / "metadata.jsonl", tiny_dataset).splits == expected.splits
    numbered = scan_labels(tiny_dataset / "labels.parquet", tiny_dataset)
    assert (numbered.classes, numbered.splits) == (("0", "1", "2"), expected.splits)


def test_without_pyarrow_a_parquet_file_is_an_error_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    message, hint = refusal(tmp_path / "labels.parquet")
    assert (message, hint) == (f"{tmp_path / 'labels.parquet'} needs the package pyarrow", "pip install 'resnet-cli[parquet]'")


def test_classes_are_sorted_as_folder_names_are(tmp_path: Path, make_image: MakeImage) -> None:
    rows = [(make_image(tmp_path / f"{number}.png", seed=number).name, str(number)) for number in range(11)]
    assert scan_labels(write_table(tmp_path / "l.csv", rows), tmp_path).classes[:4] == ("0", "1", "10", "2")


def test_a_table_may_lie_elsewhere_and_name_absolute_paths(tiny_dataset: Path, tmp_path: Path, make_image: MakeImage) -> None:
    other = make_image(tmp_path / "elsewhere" / "x.png", seed=77)
    rows = [*rows_of(tiny_dataset)[1:], (str(tiny_dataset / rows_of(tiny_dataset)[0][0]), "apple"), (str(other), "berry")]
    rows[-2] = (rows[-2][0], Path(rows[-2][0]).parent.name)
    dataset = scan_labels(write_table(tmp_path / "l.csv", rows), tiny_dataset)
    places = [dataset.relative(sample.path) for sample in dataset.splits["all"]]
    assert sorted(places) == sorted([*(path for path, _ in rows_of(tiny_dataset)), str(other)])


def test_a_path_that_leads_out_of_the_folder_is_refused(change: Callable[..., Path], tmp_path: Path) -> None:
    table = change(("berry/../../x.png", "apple"))
    assert refusal(table) == (
        f"{table}, row 38, names berry/../../x.png, which is outside of {tmp_path / 'fruit'}",
        "give a folder that holds all images, or absolute paths",
    )


def test_a_path_with_dots_that_stays_inside_is_the_same_file(change: Callable[..., Path]) -> None:
    dataset = scan_labels(table := change(("./apple/../berry//000.png", "berry")), table.parent)
    assert len(dataset.splits["all"]) == 36
    assert dataset.notes == (f"{table} has 1 row of a file that an earlier row names with the same label: it counts once",)


def test_two_labels_of_a_file_are_refused_even_through_links(change: Callable[..., Path], tiny_dataset: Path) -> None:
    (tiny_dataset / "linked").symlink_to("berry")
    (tiny_dataset / "one.png").symlink_to("berry/001.png")
    for path, also in (("berry/001.png", ""), ("linked/001.png", " (berry/001.png)"), ("one.png", " (berry/001.png)")):
        table = change((path, "apple"))
        row = next(number for number, each in enumerate(rows_of(tiny_dataset), 2) if each[0] == "berry/001.png")
        message = f"{table}, row 38, says apple for {path}, and row {row}{also} says berry"
        assert refusal(table) == (message, "keep one of the rows")


def test_a_file_in_two_splits_is_refused(change: Callable[..., Path]) -> None:
    table = change(("berry/001.png", "berry", "test"), header=("path", "label", "split"))
    assert "says test for berry/001.png, and row " in refusal(table)[0]


def test_missing_files_are_left_out_with_a_reason_or_refused(change: Callable[..., Path], tiny_dataset: Path) -> None:
    (tiny_dataset / "notes.txt").touch()
    table = change(("berry/900.png", "berry"), ("notes.txt", "berry"))
    left_out = {(each.path.name, each.reason) for each in scan_labels(table, tiny_dataset).left_out}
    assert left_out == {("900.png", "there is no such file"), ("notes.txt", "not an image")}
    message, _ = refusal(table, strict=True)
    named = f"{tiny_dataset / 'berry/900.png'}: there is no such file; {tiny_dataset / 'notes.txt'}: not an image"
    assert message == f"2 of 38 rows of {table} cannot be used: {named}"


def test_a_row_without_a_label_is_left_out(change: Callable[..., Path], tiny_dataset: Path, make_image: MakeImage) -> None:
    make_image(tiny_dataset / "new.png", seed=99)
    dataset = scan_labels(change(("new.png", " ")), tiny_dataset)
    assert dataset.classes == FRUIT
    assert [(each.path.name, each.reason) for each in dataset.left_out] == [("new.png", "its label is empty")]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("circle/x.png", "its folder cannot be read: Too many levels of symbolic links"),
        ("circle", "a broken link"),
        ("apple", "not a file"),
        ("a\0b/x.png", "there is no such file"),
        ("apple/000.png/x.png", "there is no such file"),
        ("x" * 5000, "there is no such file"),
        ("C:\\photos\\x.png", "there is no such file"),
        ("https://example.org/x.png", "there is no such file"),
    ],
)
def test_paths_that_are_no_files_are_left_out(path: str, reason: str, change: Callable[..., Path], tiny_dataset: Path) -> None:
    (tiny_dataset / "circle").symlink_to("circle")
    assert [each.reason for each in scan_labels(change((path, "apple")), tiny_dataset).left_out] == [reason]
    alone = write_table(tiny_dataset / "alone.csv", [(path, "apple")])
    assert f": {reason}" in refusal(alone)[0]


def test_accents_and_backslashes_are_as_other_systems_write_them(tmp_path: Path, make_image: MakeImage) -> None:
    decomposed = unicodedata.normalize("NFD", "Äpfel.png")
    make_image(tmp_path / "a" / decomposed)
    make_image(tmp_path / "a" / "b.png", seed=1)
    table = write_table(tmp_path / "l.csv", [(unicodedata.normalize("NFC", "a/Äpfel.png"), "x"), ("a\\b.png", "y")])
    names = [sample.path.name for sample in scan_labels(table, tmp_path).splits["all"]]
    assert names == [decomposed, "b.png"]


def test_names_without_endings_are_refused_with_the_file_that_is_there(tiny_dataset: Path) -> None:
    rows = [(path.removesuffix(".png"), label) for path, label in rows_of(tiny_dataset)]
    table = write_table(tiny_dataset / "train.csv", rows, ("id", "label"))
    message, hint = refusal(table)
    first = rows[0][0]
    assert message == f"{table} names no image, such as {tiny_dataset / first}: there is no such file"
    assert hint == f"{tiny_dataset / first}.png exists: write the name of the file, with its ending"


def test_paths_from_another_folder_are_refused_with_that_folder(tiny_dataset: Path, tmp_path: Path) -> None:
    table = write_table(tiny_dataset / "l.csv", [(f"fruit/{path}", label) for path, label in rows_of(tiny_dataset)])
    assert refusal(table)[1].endswith(f": give {tiny_dataset / '..'} as DATASET")
    table = write_table(tmp_path / "l.csv", rows_of(tiny_dataset))
    assert refusal(table)[1].endswith(f": give {tiny_dataset} as DATASET")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "{} has no column path: it begins with nothing", "begin the file with a line"),
        ("apple/000.png,apple\n", "{} has no column path: it begins with apple/000.png, apple", "begin the file with a line"),
        ("path\na.png\n", "{} has no column label: it begins with path", "begin the file with a line"),
        ("path,label\n", "{} has no rows", "add a row"),
        ("image,file,label\na,a,b\n", "{} has several columns that may be the path: image and file", "name one of them path"),
        ("path,label\na.png,b,c\n", "{}, row 2, has 3 cells, and the first row 2", "put text that holds a ',' in quotes"),
        ("path,label\na.png\n", "{}, row 2, has 1 cell, and the first row 2", ""),
        ('path,label\n\na.png,"b\n', "{} cannot be read at line 3: unexpected end of data", "a quote that is not closed"),
    ],
)
def test_a_table_that_is_none_is_refused(text: str, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(text)
    said, advice = refusal(tmp_path / "l.csv")
    assert said == message.format(tmp_path / "l.csv")
    assert advice.startswith(hint)


def test_text_in_an_unknown_coding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("path;label\na.png;Äpfel\n".encode("cp1252"))
    assert refusal(tmp_path / "l.csv") == (f"line 2 of {tmp_path / 'l.csv'} is not valid UTF-8", "save it as CSV UTF-8")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.jsonl", b'{"path": "a.png", "label": "b"}\n[1]\n', "line 2 of {} is not an object"),
        ("l.jsonl", b'{"path": "a.png",\n', "line 1 of {} is not JSON: "),
        ("l.jsonl", b'{"path": "a.png", "label": ["b"]}\n', "label in {}, row 1, is neither text nor a number but list"),
        ("l.parquet", b"PAR1", "{} is not a Parquet file that can be read: "),
        ("l.xlsx", b"PK", "--labels {} is not a table that can be read"),
    ],
)
def test_other_kinds_that_are_damaged_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name)[0].startswith(message.format(tmp_path / name))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("apple/000.png", "apple", "holdback"), "row 38, has the split holdback"),
        (("apple/000.png", "apple", ""), "row 38, has no split, and other rows have one"),
        (("", "apple", "train"), "row 38, has no path"),
        (
            ("apple/000.png", "red  apple", "train"),
            "row 38, has the label 'red  apple', which looks like the label 'red apple'",
        ),
        (("apple/000.png", "two\nlines", "train"), "that holds a line break or another control character"),
    ],
)
def test_rows_that_cannot_be_understood_are_refused(
    row: Row, message: str, change: Callable[..., Path], tiny_dataset: Path, make_image: MakeImage
) -> None:
    make_image(tiny_dataset / "r.png", seed=50)
    spelled = [("r.png", "red apple", "train")] if "red" in row[1] else []
    table = change(*spelled, row, header=("path", "label", "split"), drop=len(spelled))
    assert message in refusal(table)[0]


def test_a_label_without_training_images_is_refused(
    change: Callable[..., Path], tiny_dataset: Path, make_image: MakeImage
) -> None:
    make_image(tiny_dataset / "new.png", seed=99)
    table = change(("new.png", "durian", "test"), header=("path", "label", "split"))
    assert refusal(table)[0] == f"the label durian in {table} has no images in train"


def test_a_table_without_training_rows_or_with_one_label_is_refused(tiny_dataset: Path, change: Callable[..., Path]) -> None:
    rows = [(*row, "test") for row in rows_of(tiny_dataset)]
    table = write_table(tiny_dataset / "l.csv", rows, ("path", "label", "split"))
    assert refusal(table)[0] == f"{table} has no row with the split train"
    table = write_table(tiny_dataset / "l.csv", [row for row in rows_of(tiny_dataset) if row[1] == "apple"])
    assert refusal(table)[0] == f"{table} has one label only (apple)"


def test_check_lists_what_is_wrong_with_a_table(run_cli: RunCli, change: Callable[..., Path], make_image: MakeImage) -> None:
    table = change(("berry/900.png", "berry"), ("apple/000.png", "cherry"), ("apple/001.png", "apple"))
    result = run_cli("check", "--labels", table, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    kinds = [(each["kind"], each["severity"]) for each in found["problems"]]
    assert kinds == [("two-labels", "error"), ("labels", "warning"), ("missing", "error")]
    assert found["counts"] == {"all": dict.fromkeys(FRUIT, 12)}
    assert resnet.check(labels=table, progress=False).images == 36
    assert "error: two-labels (1)  keep one of the rows" in run_cli("check", "--labels", table).stdout


def test_commands_need_a_folder_or_a_table(run_cli: RunCli, tmp_path: Path) -> None:
    for command in ("check", "train", "finetune"):
        result = run_cli(command)
        assert result.exit_code == 2 and "name a folder of images" in result.stderr
    with pytest.raises(ResnetError, match="data=None is neither text nor a path"):
        resnet.check()
    assert run_cli("check", "--labels", tmp_path / "no.csv").stderr.startswith(f"error: there is no file {tmp_path / 'no.csv'}")


FINETUNE = ("--weights", "bundled", "--unfreeze", "none", "--augment", "none")


@pytest.mark.slow
def test_a_table_trains_the_same_network_as_class_folders(
    run_cli: RunCli, tmp_path: Path, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "fruit" / "train", count=10)
    make_dataset(tmp_path / "fruit" / "test", count=4, first=50)
    rows = [(*row, split) for split in ("test", "train") for row in rows_of(tmp_path / "fruit", split)]
    table = write_table(tmp_path / "fruit.csv", rows, ("image", "category", "subset"))
    done = [
        json.loads(run_cli("finetune", "fruit", *words, *FINETUNE, "--json").stdout)
        for words in ((), ("--labels", "fruit.csv"))
    ]
    first, second = (Path(each["run"]) for each in done)
    assert (first / "model.weights.h5").read_bytes() == (second / "model.weights.h5").read_bytes()
    assert (first / "splits.csv").read_bytes() == (second / "splits.csv").read_bytes()
    assert done[0]["test"] == done[1]["test"]
    data = json.loads((second / "run.json").read_text())["data"]
    assert data["labels"] == {"path": str(table), "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}
    assert data["path"] == str(tmp_path / "fruit")
    # The run finds its images again; the same table scores the same images; its training images are never scored by accident.
    again = json.loads(run_cli("evaluate", "--run", second, "--json").stdout)
    assert again["top1"] == done[1]["test"]["top1"] and again["count"] == 12
    scored = json.loads(run_cli("evaluate", "fruit", "--labels", "fruit.csv", "--run", second, "--json").stdout)
    assert (scored["split"], scored["count"], scored["top1"]) == ("test", 12, again["top1"])
    trained = run_cli("evaluate", "fruit", "--labels", "fruit.csv", "--split", "val", "--run", second)
    assert "\nerror: fruit.csv has no split val\nhint: it has train, test" in trained.stderr


@pytest.mark.slow
def test_labels_that_folders_cannot_have_go_through_training_and_evaluation(
    run_cli: RunCli, tmp_path: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("=1+2", "a/b", 'c, "d" [red]x[/red] <b>')
    rows = []
    outside = tmp_path / "outside"
    for label, name in enumerate(names):
        for number in range(8):
            folder = outside if number % 2 else tmp_path / "in"
            path = make_image(folder / f"{label}{number}.png", seed=number, label=label)
            rows.append((str(path) if number % 2 else path.name, name))
    write_table(tmp_path / "in" / "labels.csv", rows)
    done = run_cli("finetune", "--labels", "in/labels.csv", *FINETUNE, "--val-split", "0.4", "--json")
    assert done.exit_code == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    assert run.name == "in-resnet18-slim"
    assert resnet.load(run).classes == names
    with (run / "splits.csv").open(newline="") as file:
        assert sorted((row["path"], row["class"]) for row in csv.DictReader(file)) == sorted(rows)
    with (run / "confusion.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))[1:]) == names
    first = json.loads(run_cli("evaluate", "--json").stdout)
    held = json.loads((run / "run.json").read_text())["results"]["val"]
    assert (first["count"], first["top1"]) == (held["count"], held["top1"])
    shown = run_cli("evaluate").stdout
    assert 'c, "d" [red]x[/red] <b>' in shown
    assert "&lt;b&gt;" in (run / "report.html").read_text()
    exported = run_cli("export", "--format", "openvino", "--output", "out")
    assert exported.exit_code == 0, exported.stderr
    assert (tmp_path / "out" / "labels.txt").read_text().splitlines() == list(names)
    assert str(tmp_path) not in (tmp_path / "out" / "export.json").read_text()
    (tmp_path / "in").rename(tmp_path / "moved")
    shutil.rmtree(outside)
    assert "images are no longer there" in run_cli("evaluate", "--run", run).stderr


def test_tables_of_one_name_in_two_folders_have_results_of_their_own(
    tiny_dataset: Path, make_dataset: MakeDataset, make_run: MakeRun, run_cli: RunCli, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", make_dataset(tmp_path / "other", first=50))
    places = []
    for folder, step in (("first", 2), ("second", 3)):
        (tmp_path / folder).mkdir()
        table = write_table(tmp_path / folder / "labels.csv", rows_of(tiny_dataset)[::step])
        arguments = ("evaluate", tiny_dataset, "--labels", table, "--run", run, "--json")
        results = [run_cli(*arguments) for _ in range(2)]
        assert results[0].exit_code == 0, results[0].stderr
        documents = [json.loads(result.stdout) for result in results]
        assert documents[0]["output"] == documents[1]["output"]  # earlier results of the same table are replaced
        places.append((Path(documents[0]["output"]), documents[0]["count"]))
    assert places[0][0] != places[1][0]
    for place, count in places:
        assert len((place / "predictions.csv").read_text().splitlines()) == 1 + count
