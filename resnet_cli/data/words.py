"""Words in the names of folders, and what they tell of splits (light: the standard library only).

In: a name, or several. Out: its words, the split it names, or a part of a sentence.
"""

import re
from collections.abc import Sequence

_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev", "holdout", "heldout"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Words that say nothing of what the images show: `train_images` and `Training Data` are splits, `steam_train` may be a class.
_FILLERS = {
    *("set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"),
    *("split", "splits", "folder", "folders", "sample", "samples", "file", "files"),
}
_UNLABELLED = {"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "unsupervised", "inference"}


def words_of(name: str) -> list[str]:
    """Words of a name, in lower case: those of "Training-Data2" and "TrainingData" are training and data."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = " ".join(re.findall(r"[^\W\d_]+", parted)).lower()
    return re.sub(r"\b(hold|held) out\b", r"\1out", words).split()


def some_names(names: Sequence[str], most: int = 4) -> str:
    """So many names as words of a sentence: "a, b and c", or "a, b, c and 5 more"."""
    shown = [*names[: most - 1], f"{len(names) - most + 1} more"] if len(names) > most else list(names)
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def split_of(name: str) -> tuple[str, bool] | None:
    """The split that a name tells, and whether it tells nothing else; None of two splits, or none."""
    words = words_of(name)
    told = {_WORDS[word] for word in words if word in _WORDS}
    return (told.pop(), all(word in _WORDS or word in _FILLERS for word in words)) if len(told) == 1 else None


def rest_of(name: str) -> list[str]:
    """Words of a name that tell what the images show."""
    return [word for word in words_of(name) if word not in _WORDS and word not in _FILLERS]


def says_nothing(name: str) -> bool:
    """Whether a name has only words such as `images`."""
    words = words_of(name)
    return bool(words) and all(word in _FILLERS for word in words)


def is_unlabelled(name: str) -> bool:
    """Whether a name says that the images are yet to be classified, such as `seg_pred`."""
    return not _UNLABELLED.isdisjoint(words_of(name))


def counted(count: int) -> str:
    """Such as "1 image" or "12 images"."""
    return f"{count} image{'' if count == 1 else 's'}"
