"""What can be set about training: the only place where defaults stand (light: the command line reads them from here)."""

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["cosine", "one-cycle", "steps", "constant"]


@dataclass(frozen=True)
class TrainConfig:
    """Training from scratch, or from weights, of every layer.

    Attributes:
        epochs: passes over the training pictures.
        batch_size: pictures a step.
        optimizer: sgd (Nesterov momentum), adam or adamw.
        learning_rate: peak rate.
        schedule: cosine = warm-up, then a half cosine to zero; one-cycle = up and down in straight lines; steps = times 0.1
            at `milestones`; constant.
        warmup: share of all steps in which the rate climbs, 0..1.
        milestones: shares of all steps after which "steps" divides the rate by ten.
        momentum: of sgd.
        weight_decay: lambda of the L2 penalty (He et al. 2015: 1e-4); never on batch-norm and biases.
        label_smoothing: share of the target spread over all classes.
        dropout: share of pooled features dropped.
        ema: momentum of the averaged weights that are validated and kept; 0 for none.
        progressive: the first half of the epochs sees pictures of three quarters of the size: a fifth less work.
        patience: epochs without a better validation accuracy before training stops; 0 never stops early.
        class_weights: weigh classes by 1 / their count.
        crop, scale, flip, rotate, shift, cutout, mixup: see `data.augment.Augmentation`.
        val_split: share held out where the folder has no validation pictures, 0..1.
        seed: of everything random.
    """

    epochs: int = 60
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    milestones: tuple[float, ...] = (0.5, 0.75)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    dropout: float = 0.0
    ema: float = 0.0
    progressive: bool = False
    patience: int = 0
    class_weights: bool = False
    crop: Literal["resized", "pad", "none"] = "pad"
    scale: float = 0.35
    flip: bool = True
    rotate: float = 0.0
    shift: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    val_split: float = 0.1
    seed: int = 0
