"""The work of `predict --ray` and `evaluate --ray`: classify many images on Ray Data, restartable, into Parquet files (heavy).

In: a table of paths, a folder or a pattern, and an output folder. Out: predictions/block-NNNNNN.parquet, a row per image. The
list of images is written once and cut into numbered blocks; Ray Data hands the numbers of those that are not finished to a
fixed pool of actors, and repeats what an actor that died had begun.
"""

import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_cli.data.bulk_folder import (
    SUMMARY,
    Input,
    Manifest,
    block_size,
    find_input,
    fingerprint_of,
    finished_blocks,
    read_manifest,
    read_notes,
    read_rows,
    write_list,
    write_manifest,
)
from resnet_cli.data.scoring import labelled, unreadable_note
from resnet_cli.data.storage import Place, find_place, write_whole
from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.inference.metrics import evaluation_of
from resnet_cli.inference.scoring import MEASURED, only_left_out, outcomes_of_rows, unreadable_rows, write_confusion
from resnet_cli.jobs.bulk_actor import (
    MOST_CORES,
    BlockClassifier,
    Work,
    actors,
    cores_per_actor,
    file_hash,
    forget_attempts,
    model_hash,
)
from resnet_cli.jobs.environment import gpu_is_likely, settled, surroundings
from resnet_cli.jobs.evaluate import Evaluated, EvaluateRequest
from resnet_cli.jobs.measure import Measured
from resnet_cli.jobs.predict import Ready, classifiers_for, load_runs, run_classifier
from resnet_cli.jobs.ray_cluster import Cluster, connect, import_ray
from resnet_cli.progress import Progress, how_long, how_many, stop_if_asked

_TOLD_EVERY = 60  # seconds between lines of progress
AGAIN = "type the same command again to continue where it stopped"


@dataclass(frozen=True)
class BulkRequest:
    """The arguments of a bulk prediction.

    Attributes:
        ray: "local", or the address of a cluster.
        input: a Parquet file of paths, a folder, a pattern, or a URL of these.
        output: folder or URL of the results.
        runs: folders of runs, or of OpenVINO exports; several form an ensemble, none means the newest run.
        views: views of each image to average: 1, 2 or 10.
        engine: engine of the forward passes; with "auto", Keras if the cluster has GPUs.
        top: number of most probable classes to write.
        features: also write the pooled features.
    """

    ray: str
    input: str
    output: str
    runs: Sequence[Path] = ()
    views: int = 1
    engine: EngineName = "auto"
    top: int = 5
    features: bool = False


@dataclass(frozen=True)
class BulkDone:
    """The result of a bulk prediction.

    Attributes:
        output: the folder of the results.
        runs: names of the classifiers.
        images: rows written, each image once.
        errors: those with an error instead of classes.
        now: images classified by this command; the others were finished before.
        seconds: that they took, with the start of the actors, without that of Ray.
        engine: the engine and its precision, of each kind of machine.
    """

    output: str
    runs: tuple[str, ...]
    images: int
    errors: int
    now: int
    seconds: float
    engine: str

    def to_json(self) -> dict[str, Any]:
        """The JSON output, and summary.json."""
        rate = self.now / self.seconds if self.seconds else None
        counts = {"images": self.images, "errors": self.errors, "now": self.now, "seconds": self.seconds}
        return {"output": self.output, "runs": list(self.runs), **counts, "images_per_second": rate, "engine": self.engine}


def run_bulk(request: BulkRequest, progress: Progress) -> BulkDone:
    """Classify many images; a command that was stopped continues where it was.

    Raises:
        ResnetError: Ray, a run or the input cannot be used, the output folder belongs to another command, or it cannot be
            written.
        Interrupted: a signal requested a stop; finished blocks are kept.
    """
    import_ray()
    engine = settled(request.engine, progress)
    classifiers = classifiers_for(request.runs, engine, progress)
    _require_engine(classifiers)
    if request.features and len(classifiers) > 1:
        raise ResnetError("--features are those of one network, and several runs are named", "name one of them with --run")
    output = find_place(request.output)
    found = find_input(request.input, False)
    options = {"top": request.top, "views": request.views, "features": request.features, "engine": request.engine}
    return _run_blocks(request.ray, output, found, options, classifiers, engine, progress)


def _require_engine(classifiers: Sequence[Ready]) -> None:
    for each in classifiers:
        if each.runtime is not None:
            raise ResnetError(f"{each.model} does not run on --ray", "name the run, or its OpenVINO export")


def run_bulk_evaluation(request: EvaluateRequest, address: str, word: str, progress: Progress) -> Evaluated:
    """Measure runs on many images on Ray Data; the figures are those of `run_evaluation` on the same images.

    Args:
        request: the arguments; `output` is a folder for the rows, and is needed.
        address: "local", or the address of a cluster.
        word: a Parquet file with columns `path` and `label`, or a folder with class folders.
        progress: where to report.

    Raises:
        ResnetError: as `run_bulk`; nothing in the input has a known class; or with `strict`, an image cannot be read.
        Interrupted: a signal requested a stop; finished blocks are kept.
    """
    import_ray()
    engine = settled(request.engine, progress)
    runs = load_runs(request.runs, progress)
    classifiers, classes, views = tuple(map(run_classifier, runs)), runs[0].classes, request.views
    _require_engine(classifiers)
    scored, found = labelled(word, runs, request.split)
    output = find_place(str(request.output))
    options = {"top": min(5, len(classes)), "views": views, "features": False, "engine": request.engine, "labels": True}
    done = _run_blocks(address, output, found, options, classifiers, engine, progress)
    manifest = read_manifest(output)
    assert manifest is not None
    left_out = unreadable_rows(read_rows(output, manifest, ["path", "error"]))
    if left_out and request.strict:
        raise ResnetError(left_out[0].reason, "without --strict it is left out")
    for note in (*manifest.notes, *([unreadable_note(left_out)] if left_out else [])):
        progress.warn(note)
    figures = evaluation_of(outcomes_of_rows(read_rows(output, manifest, MEASURED), classes), classes)
    write_confusion(Path(output.path) / "confusion.csv", figures)
    measured = Measured(scored, only_left_out(left_out), figures, done.engine, views)
    return Evaluated(runs, measured, Path(output.path), None, tuple(progress.warnings))


def _run_blocks(
    address: str,
    output: Place,
    found: Input,
    options: dict[str, Any],
    classifiers: tuple[Ready, ...],
    engine: EngineName,
    progress: Progress,
) -> BulkDone:
    """List the images, unless that is done; classify the blocks that are not finished; sum up.

    Args:
        address: "local", or the address of a cluster.
        output: folder of the results.
        found: the images.
        options: what changes the results: top, views, features, engine.
        classifiers: the members of the ensemble.
        engine: as returned by `jobs.environment.settled`.
        progress: where to report.

    Raises:
        ResnetError, Interrupted: as `run_bulk`.
    """
    progress.saved(AGAIN)
    wanted = Manifest(found.name, found.fingerprint or "", list(map(model_hash, classifiers)), options, 0, 0)
    begun = read_manifest(output)
    if begun is not None:
        _require_same(output, begun, replace(wanted, fingerprint=fingerprint_of(found)))
    todo = None if begun is None else _unfinished(output, begun)
    now, seconds = 0, 0.0
    if todo != []:
        with connect(address) as cluster:
            if begun is None:
                begun = _list(output, wanted, found, cluster, progress)
            todo = _unfinished(output, begun)
            work = _work(output, begun, found.base, classifiers, engine, cluster)
            now, seconds = _run(work, todo, cluster, progress)
            forget_attempts(output)
    assert begun is not None
    notes = list(read_notes(output, range(begun.blocks)))
    errors = sum(each["errors"] for each in notes)
    engines = ", ".join(sorted({each["engine"] for each in notes}))
    names = tuple(each.name for each in classifiers)
    done = BulkDone(output.name, names, begun.images, errors, now, round(seconds, 3), engines)
    write_whole(output.inside(SUMMARY), json.dumps(done.to_json(), indent=2).encode())
    return done


def _require_same(output: Place, begun: Manifest, wanted: Manifest) -> None:
    """Refuse to continue in a folder whose results would differ."""
    another = f"{output.name} holds predictions of another"
    hint = "choose another --output, or delete the folder"
    if begun.options.get("labels") != wanted.options.get("labels"):
        was = "evaluate" if begun.options.get("labels") else "predict"
        raise ResnetError(f"{output.name} was begun by `resnet {was}`", hint)
    if begun.model != wanted.model:
        raise ResnetError(f"{another} model", hint)
    if begun.input != wanted.input:
        raise ResnetError(f"{another} input: {begun.input}", hint)
    for name in wanted.options | begun.options:
        then, value = begun.options.get(name), wanted.options.get(name)
        if then != value:
            raise ResnetError(f"{output.name} was begun with {name} {then}, not {value}", f"use the same option, or {hint}")
    if begun.fingerprint != wanted.fingerprint:
        raise ResnetError(f"{begun.input} has changed since {output.name} was begun: the list of its images is another", hint)


def _unfinished(output: Place, manifest: Manifest) -> list[int]:
    done = finished_blocks(output)
    return [number for number in range(manifest.blocks) if number not in done]


def _list(output: Place, wanted: Manifest, found: Input, cluster: Cluster, progress: Progress) -> Manifest:
    progress.line(f"listing the images of {found.name}")
    images, fingerprint = write_list(output, found)
    if not images and (notes := found.notes()):
        raise ResnetError(f"no image of {found.name} is left: {'; '.join(notes)}", "give other images, or another run")
    if not images:
        raise ResnetError(f"there are no images in {found.name}", "give a table with a row per image")
    size = block_size(images, cluster.cores // MOST_CORES + cluster.gpus)
    manifest = replace(wanted, fingerprint=fingerprint, images=images, block=size, notes=found.notes())
    for note in manifest.notes:
        progress.line(note)
    write_manifest(output, manifest)
    return manifest


def _work(
    output: Place, manifest: Manifest, base: Place, classifiers: tuple[Ready, ...], engine: EngineName, cluster: Cluster
) -> Work:
    """Choose the engine for this cluster, and make the models ready to be sent."""
    # Of other machines, only Ray knows whether they have a GPU.
    has_gpus = cluster.gpus > 0 and (not cluster.is_local or gpu_is_likely(surroundings()))
    if engine == "auto" and has_gpus and all(each.for_keras for each in classifiers):
        engine = "keras"
    models: list[tuple[str, Any]] = []
    if engine != "keras" and not cluster.is_local and all(each.model.exists() for each in classifiers):
        import ray

        pairs = [(each.model, each.model.with_suffix(".bin")) for each in classifiers]
        models = [(file_hash(pair[0]), ray.put([file.read_bytes() for file in pair])) for pair in pairs]
    whole = len(cluster.machines) == 1 and cluster.cores <= MOST_CORES
    threads = None if whole and engine != "keras" else cores_per_actor(cluster, engine)
    return Work(output, manifest, base, classifiers, tuple(models), engine, threads)


def _run(work: Work, todo: Sequence[int], cluster: Cluster, progress: Progress) -> tuple[int, float]:
    """Classify blocks on Ray Data; returns the images, and the seconds with the start of the actors."""
    total, size = work.manifest.images, work.manifest.block
    left = sum(min(size, total - number * size) for number in todo)
    number = actors(cluster, work.engine)
    forget_attempts(work.output)
    done, errors = total - left, 0
    what = how_many(number, "actor") + (" on GPUs" if work.engine == "keras" and cluster.gpus else "")
    images, blocks = how_many(total, "image"), how_many(len(todo), "block")
    progress.line(f"classifying {left:,} of {images} in {blocks}, {what}")
    task = progress.start("predicting", total)
    task.advance(done)
    began = told = time.monotonic()
    try:
        for row in _until_asked(_results(work, todo, cluster), progress):
            if row["failure"]:
                raise ResnetError(row["failure"], row["hint"] or AGAIN)
            done, errors = done + row["images"], errors + row["errors"]
            rate = (done - total + left) / (time.monotonic() - began)
            task.advance(row["images"], {"images/s": rate, "errors": errors})
            if time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                ahead = how_long((total - done) / rate)
                failed = how_many(errors, "error")
                progress.line(f"{done:,} of {how_many(total, 'image')}, {rate:,.0f} images/s, {failed}, {ahead} left")
    finally:
        task.finish()
    return left, time.monotonic() - began


def _results(work: Work, todo: Sequence[int], cluster: Cluster) -> Iterator[dict[str, Any]]:
    """The results of blocks, as they arrive."""
    import logging

    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    on_gpu = work.engine == "keras" and cluster.gpus > 0
    blocks = ray.data.from_items([{"block": number} for number in todo], override_num_blocks=len(todo))
    results = blocks.map_batches(
        BlockClassifier,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors(cluster, work.engine), len(todo)), max_tasks_in_flight_per_actor=2),
        num_cpus=cores_per_actor(cluster, work.engine),
        num_gpus=1 if on_gpu else None,
    )
    yield from results.iter_rows()


def _until_asked(results: Iterator[dict[str, Any]], progress: Progress) -> Iterator[dict[str, Any]]:
    """The results, which a thread waits for, so that a signal is seen at once.

    Raises:
        ResnetError: Ray gave up.
        Interrupted: a signal requested a stop.
    """
    arrived: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()

    def wait() -> None:
        try:
            for row in results:
                arrived.put(row)
            arrived.put(None)
        except Exception as error:
            arrived.put(error)

    threading.Thread(target=wait, daemon=True, name="results").start()
    while True:
        stop_if_asked(progress, AGAIN)
        try:
            row = arrived.get(timeout=0.2)
        except queue.Empty:
            continue
        if row is None:
            return
        if isinstance(row, Exception):
            raise _told(row) from row
        yield row


def _told(error: Exception) -> ResnetError:
    """One sentence for an error of Ray, whose text may be a traceback."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return ResnetError(f"Ray stopped: {lines[-1] if 'Traceback' in text else lines[0]}", AGAIN)
