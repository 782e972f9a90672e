"""`resnet train --ray ADDRESS`: Ray Train starts the processes, collects their logs, and starts them again when one is lost.

In: the address of a Ray cluster, the words of a command, and its run folder. Out: a complete run (light).

Ray's `JaxTrainer` starts JAX's runtime on TPUs and GPUs only, and with other time limits than this program's. Here it only
places the workers: each runs the command with the environment that several processes have by hand, on CPUs as on GPUs.
"""

import logging
import os
import re
import socket
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, cast

from resnet_cli.errors import ResnetError
from resnet_cli.jobs.cluster import COORDINATOR, PROCESS, PROCESSES, require_for_all, run_child
from resnet_cli.jobs.ray_cluster import Cluster, connect, import_ray
from resnet_cli.jobs.start import LAUNCH, TrainRequest, is_of_launch
from resnet_cli.progress import GO_ON, Progress, how_many

_RESTARTS = 3
_BY_WORKER = re.compile(r"\(RayTrainWorker [^)]*\)(?:\x1b\[0m)? (.*)")


def require_ray(request: TrainRequest) -> None:
    """Refuse what processes on Ray cannot do.

    Raises:
        ResnetError: Ray is missing or too old, JAX is not installed, or there is an option for one process only.
    """
    import_ray()
    if find_spec("jax") is None:
        raise ResnetError("train --ray needs JAX, which is not installed", "pip install 'resnet-cli[jax]'")
    require_for_all(request)


def launch(address: str, words: Sequence[str], output: Path, progress: Progress, shown: TextIO) -> None:
    """Train on a Ray cluster.

    Args:
        address: see `connect`.
        words: the command: what follows `resnet`, without --ray and --output.
        output: the run folder, on a file system that all machines share, as the working folder and the data.
        progress: where to report.
        shown: where to write what the processes report.

    Raises:
        ResnetError: the cluster does not answer, the training did not begin, or it failed more often than Ray starts it again.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    before = _age(output)
    # Until Ray has ended: it writes the last lines of its processes then.
    with redirect_stderr(cast(TextIO, _OfWorkers(shown))), connect(address, logs=True) as cluster:
        _fit(cluster, words, output, progress, shown)
    if _age(output) == before:
        raise ResnetError("the training on Ray did not begin: the processes say above why not")


def _age(output: Path) -> int | None:
    """When the record of a complete run was written; None without one."""
    try:
        return (output / "run.json").stat().st_mtime_ns
    except OSError:
        return None


class _OfWorkers:
    """A stream that passes on what the processes print, without Ray's own lines, which stay in its log folder."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if found := _BY_WORKER.search(line):
                self._target.write(found[1] + "\n")
        return len(text)

    def flush(self) -> None:
        self._target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def _fit(cluster: Cluster, words: Sequence[str], output: Path, progress: Progress, shown: TextIO) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxConfig, JaxTrainer

    count, resources = _workers(cluster)
    with redirect_stderr(shown):
        progress.line(f"Ray: {how_many(count, 'process')}, each with {_in_words(resources)}")
    settings = {"words": list(words), "output": str(output.resolve()), "folder": str(Path.cwd()), "launch": uuid.uuid4().hex}
    with tempfile.TemporaryDirectory() as place:
        trainer = JaxTrainer(
            _work,
            train_loop_config=settings,
            jax_config=JaxConfig(),
            scaling_config=ScalingConfig(
                num_workers=count, resources_per_worker=resources, use_gpu="GPU" in resources, placement_strategy="SPREAD"
            ),
            run_config=RunConfig(name=output.name, storage_path=place, failure_config=FailureConfig(max_failures=_RESTARTS)),
        )
        try:
            trainer.fit()
        except Exception as error:  # Ray's own error holds the tracebacks of all workers
            raise ResnetError(f"the training on Ray failed: {_reason(error)}", GO_ON) from error


def _workers(cluster: Cluster) -> tuple[int, dict[str, float]]:
    """Number of processes and the resources of each: one for a machine with GPUs, with all of them; else one for a machine."""
    with_gpus = [machine.gpus for machine in cluster.machines if machine.gpus]
    with_cores = [machine.cores for machine in cluster.machines if machine.cores]
    chosen = os.environ.get(PROCESSES, "")
    count = int(chosen) if chosen.isdecimal() and int(chosen) else len(with_gpus or with_cores)
    return count, {"CPU": 1.0, **({"GPU": float(min(with_gpus))} if with_gpus else {})}


def _in_words(resources: dict[str, float]) -> str:
    return ", ".join(f"{number:.0f} {name}" for name, number in resources.items())


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "ended with exit code" in line]
    return lines[-1].strip().removeprefix("RuntimeError: ") if lines else str(error).splitlines()[0]


def _work(settings: dict[str, Any]) -> None:
    """What every worker does: the command of this process, as a child."""
    import ray
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    context, output = get_context(), Path(settings["output"])
    launch = settings["launch"]
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # it would write the traceback of the error below
    with socket.socket() as probe:
        probe.bind(("", 0))
        here = f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"
    coordinator, resume = broadcast_from_rank_zero((here, is_of_launch(output, launch)))
    count, index = context.get_world_size(), context.get_world_rank()
    environment = {name: value for name, value in os.environ.items() if name not in (COORDINATOR, PROCESSES, PROCESS)}
    if count > 1:
        environment |= {COORDINATOR: coordinator, PROCESSES: str(count), PROCESS: str(index)}
    os.chdir(settings["folder"])
    words = [*settings["words"], "--output", str(output), *(["--resume"] if resume else [])]
    # The result is in the run folder; Ray collects what is written to the descriptor of stderr.
    with Path(os.devnull).open("w") as nowhere, open(2, "w", closefd=False) as logs:
        code = run_child(words, (nowhere, logs), {**environment, "KERAS_BACKEND": "jax", LAUNCH: launch})
    if is_worth_a_restart(code, output, launch):
        raise RuntimeError(f"process {index} of {count} ended with exit code {code}")


def is_worth_a_restart(code: int, output: Path, launch: str) -> bool:
    """Whether a process failed and could succeed when started again: not if it has refused to begin, as with wrong options."""
    return code != 0 and (code not in (1, 2) or is_of_launch(output, launch))
