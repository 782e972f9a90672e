"""Which engine a person asks for, and whether it can be had (light: the engines are imported when asked for).

In: the word after `--engine`. Out: the same word, or "keras" in place of "auto" where OpenVINO cannot be used.
"""

from typing import Literal

from resnet_cli.engines.gpu import MANY, Surroundings, gpu_is_likely
from resnet_cli.errors import ResnetError
from resnet_cli.progress import Progress

EngineName = Literal["auto", "openvino", "keras"]


def is_worth_a_gpu(wish: EngineName, images: int, seen: Surroundings) -> bool:
    """Whether to import Keras for so many images, only because it may find a GPU.

    Args:
        wish: as it was asked for; whoever named an engine gets that one.
        images: to classify; 0 where nobody knows how many will come.
        seen: what is known of GPUs here.
    """
    return wish == "auto" and images >= MANY and gpu_is_likely(seen)


def settled(wish: EngineName, progress: Progress) -> EngineName:
    """What can be had of what was asked for, before any work begins.

    Args:
        wish: auto = OpenVINO wherever this machine has it; openvino, keras = that one, or an error.
        progress: is told why OpenVINO cannot be used.

    Raises:
        ResnetError: OpenVINO was asked for, and is missing or too old.
    """
    if wish == "keras":
        return wish
    from resnet_cli.engines.openvino import import_openvino

    try:
        import_openvino()
    except ResnetError as error:
        if wish == "openvino":
            raise
        progress.line(f"{error.message}, so Keras takes its place, which is slower; {error.hint}")
        return "keras"
    return wish
