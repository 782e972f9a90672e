"""What a teacher changes about a training's data and recipe (light).

In: the file after `--teacher`, and a folder. Out: a data set with the teacher's classes, labelled by its folders or not at all.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_cli.data.folders import folder_names, list_folder
from resnet_cli.data.inputs import at_home
from resnet_cli.data.scan import Dataset, scan_dataset, scan_photos
from resnet_cli.data.split import hold_out, hold_out_photos
from resnet_cli.data.words import some_names, split_of
from resnet_cli.errors import ResnetError
from resnet_cli.learning.config import TrainConfig
from resnet_cli.progress import Progress

if TYPE_CHECKING:
    from resnet_cli.engines.teacher import Teacher

_WITH_LABELS = 0.9  # the teacher's share of the loss where there are labels too


def taught_by(path: Path, progress: Progress) -> "Teacher":
    """The teacher that was named; see `find_teacher`."""
    from resnet_cli.engines.teacher import find_teacher

    teacher = find_teacher(at_home(str(path)))
    progress.line(f"teacher: {teacher.name}, {len(teacher.classes)} classes, {teacher.size} pixels")
    return teacher


def dataset_to_teach(root: Path, teacher: "Teacher", config: TrainConfig) -> Dataset:
    """The images of a folder, with some held out.

    Class folders that have the names of the teacher's classes are labels. A folder of images alone has none; nor has any other
    tree where the teacher's answers are all that counts.

    Args:
        root: the folder.
        teacher: whose classes they are.
        config: `teacher_weight` is 1 where all that counts are the teacher's answers, and 0 where nothing was said.

    Raises:
        ResnetError: the classes are others than the teacher's; or see `hold_out`.
    """
    if not root.is_dir():
        raise ResnetError(f"there is no folder {root}", "name a folder of images")
    alone = config.teacher_weight == 1
    if not _has_only_images(root):
        try:
            dataset = scan_dataset(root)
        except ResnetError:
            if not alone or _names_below(root) & set(teacher.classes):
                raise
        else:
            if set(dataset.classes) == set(teacher.classes):
                return hold_out(dataset, config.val_split, config.seed)
            if not alone or set(dataset.classes) & set(teacher.classes):
                raise _other_classes(dataset, teacher)
    for name in folder_names(root):
        told = split_of(name)
        if told and told[1] and told[0] != "train":
            what = f"{root} has a folder {name}, and without labels nothing is measured on it"
            raise ResnetError(what, "move it out of the folder, or name the folder of training images alone")
    if config.class_weights:
        raise ResnetError(f"--class-weights needs labels, and {root} has none", "leave it out")
    return hold_out_photos(scan_photos(root, teacher.classes), config.val_split, config.seed)


def with_teacher(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """The recipe with the teacher's share of the loss settled."""
    share = (config.teacher_weight or _WITH_LABELS) if dataset.labelled else 1.0
    return replace(config, teacher_weight=share)


def _names_below(root: Path) -> set[str]:
    """Names of the folders in a folder and in those."""
    names = folder_names(root)
    return {*names, *(inner for name in names for inner in folder_names(root / name))}


def _has_only_images(root: Path) -> bool:
    return not folder_names(root) and bool(list_folder(root, deep=False).pictures)


def _other_classes(dataset: Dataset, teacher: "Teacher") -> ResnetError:
    theirs, own = set(teacher.classes), set(dataset.classes)
    unknown, lacking = sorted(own - theirs), sorted(theirs - own)
    parts = [f"it does not know {some_names(unknown)}"] if unknown else []
    parts += [f"{dataset.root} has no folder for its {some_names(lacking)}"] if lacking else []
    return ResnetError(
        f"the teacher {teacher.name} has other classes than {dataset.root}: {', and '.join(parts)}",
        "name the folders as its classes; for photos without labels add --teacher-weight 1"
        if not own & theirs
        else "give both the same classes",
    )
