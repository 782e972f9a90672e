"""What can be set about training: the only place where defaults stand (light: the command line reads them from here)."""

from dataclasses import dataclass
from typing import Literal

from resnet_cli.engines.choice import EngineName
from resnet_cli.networks.catalogue import Unfreeze

Optimizer = Literal["sgd", "muon", "adam", "adamw"]
Schedule = Literal["cosine", "one-cycle", "steps", "constant"]
Augment = Literal["none", "light", "strong"]

# Seconds between checkpoints, which are written in a tenth of a second to some seconds: at the ends of epochs, and inside one.
CHECKPOINT_SECONDS, MID_EPOCH_SECONDS = 20, 600


@dataclass(frozen=True)
class TrainConfig:
    """Training from scratch, or from weights, of every layer; `recipes.py` holds whole recipes.

    Attributes:
        epochs: passes over the training pictures.
        batch_size: images a step at most: all batches of an epoch have one size, so that together they are all images.
        optimizer: sgd (with momentum), muon (Jordan et al. 2024), adam or adamw.
        learning_rate: peak rate; of muon the share of its norm by which a kernel moves in a step.
        schedule: cosine = warm-up, then a half cosine to zero; one-cycle = up and down in straight lines; steps = warm-up,
            then times the factors of `drops`; constant.
        warmup: share of all steps in which the rate climbs, 0..1.
        drops: (share of all steps, factor on the peak rate from there on), for "steps".
        plateau: factor on the highest rate whenever the validation loss has not fallen for five epochs, 0..1; 0 for none.
        momentum: of sgd and muon.
        nesterov: whether they look ahead (Sutskever et al. 2013).
        weight_decay: lambda of the L2 penalty, whose gradient is lambda * w (He et al. 2015: 1e-4); with adamw decoupled from
            the gradient (Loshchilov and Hutter 2019); with muon on the head alone. Never on batch-norm and biases.
        label_smoothing: share of the target spread over all classes.
        dropout: share of pooled features dropped.
        stochastic_depth: share of pictures for which the last residual block is skipped, falling to 0 at the input.
        ema: share of all steps over which weights are averaged; the averages are validated and kept; 0 for none.
        progressive: the first two thirds of the epochs see pictures of half the side: half of all work, which buys twice as
            many epochs (Howard 2018, progressive resizing).
        patience: epochs in which neither validation accuracy nor validation loss gets better before training stops, counted
            from the peak of the learning rate on; 0 never stops early.
        class_weights: weigh classes by 1 / their count.
        pixel_mean: scale pixels to 0..1 and subtract the training pictures' mean, pixel by pixel.
        crop, scale, flip, rotate, shift, color, sharpness, cutout, mixup: see `data.augment.Augmentation`.
        teacher_weight: share of the loss that is the teacher's, 0..1; the rest is that of the labels. 0 without a teacher.
        temperature: that evens out the probabilities of teacher and student (Hinton et al. 2015).
        teacher_views: crops of each image that the teacher is shown; 0 shows it new ones every epoch, which takes longer.
        val_split: share held out where the folder has no validation pictures, 0..1.
        seed: of everything random.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    drops: tuple[tuple[float, float], ...] = ()
    plateau: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    ema: float = 0.0
    progressive: bool = False
    patience: int = 0
    class_weights: bool = False
    pixel_mean: bool = False
    crop: Literal["resized", "pad", "none"] = "pad"
    scale: float = 0.35
    flip: bool = True
    rotate: float = 0.0
    shift: float = 0.0
    color: float = 0.0
    sharpness: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    teacher_weight: float = 0.0
    temperature: float = 2.0
    teacher_views: int = 4
    val_split: float = 0.1
    seed: int = 0


def small_epochs(epochs: int) -> int:
    """Of so many epochs of progressive training, those with smaller pictures."""
    return epochs * 2 // 3


@dataclass(frozen=True)
class FinetuneConfig:
    """Transfer: a new head on pretrained features, then the last layers with it.

    Attributes:
        unfreeze: none = the head alone; last = the last stage as well; all = every layer.
        hidden: units of a ReLU layer in the head, 0 for none; the tutorials' head has 2048.
        dropout: share of pooled features dropped in training, 0..1; not where the head is solved (`solves_head`).
        epochs: passes of the second stage over the pictures, 0 chooses by their number. With unfreeze none, passes of AdamW
            over all views for the head.
        batch_size: images a step at most: all batches of an epoch have one size, so that together they are all images.
        learning_rate: peak rate of AdamW in the second stage, 0 for the usual one.
        augment: what happens to training images. none = they are as prediction sees them; light = random parts of half the area
            or more (0.7 with pad and squash); strong = of a quarter or more (0.5), also rotated and blurred or sharpened. See
            `learning.material`.
        flip: mirror every second view of light and strong. Digits, text and arrows then get wrong labels.
        views: augmented views of each training image that go through the frozen layers; 1 = the image as prediction sees it,
            0 chooses by the number of images.
        patience: epochs of the second stage without a gain in validation on the head and all earlier epochs before it stops,
            counted from the peak of its learning rate on; 0 never stops early, and never skips the stage for a perfect head.
        time_limit: seconds that both phases may take together; views and epochs are chosen to fit; 0 for no limit.
        class_weights: weigh classes by 1 / their count.
        val_split: share held out where the folder has no validation pictures; None = 0.2, or 0.1 beside a test folder.
        seed: of everything random.
        engine: what runs frozen layers and measures: auto, openvino or keras.
    """

    unfreeze: Unfreeze = "last"
    hidden: int = 0
    dropout: float = 0.2
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 0.0
    augment: Augment = "light"
    flip: bool = True
    views: int = 0
    patience: int = 5
    time_limit: float = 0.0
    class_weights: bool = False
    val_split: float | None = None
    seed: int = 0
    engine: EngineName = "auto"

    @property
    def solves_head(self) -> bool:
        """Whether the head is solved as a logistic regression, which knows no epochs; else AdamW trains it."""
        return not (self.hidden or (self.unfreeze == "none" and self.epochs))

    @property
    def mirrors(self) -> bool:
        """Whether training images are mirrored."""
        return self.flip and self.augment != "none" and self.views != 1

    @property
    def rate(self) -> float:
        """Peak rate of the second stage: the one that was chosen, or the usual one."""
        return self.learning_rate or (7e-4 if self.unfreeze == "all" else 5e-4)
