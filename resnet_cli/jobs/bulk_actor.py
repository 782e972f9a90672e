"""The actors of a bulk prediction: each loads the classifiers once, then reads, decodes, classifies and writes blocks (heavy).

In: the number of a block. Out: its file in the output folder, and counts. Images never pass through Ray's object store: threads
of the actor decode them next to the forward passes, as in `predict` without Ray. A block that is repeated, because its actor or
the driver was killed, gives the same file again.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cli.data.bulk_folder import Manifest, block_file, read_block, read_notes, write_block
from resnet_cli.data.storage import Place, Sources, children, exists, find_place, read_bytes, remove_folder, write_whole
from resnet_cli.engines import EngineName
from resnet_cli.errors import ResnetError
from resnet_cli.files import digest
from resnet_cli.jobs.environment import cache_folder
from resnet_cli.jobs.predict import Ready, load_members
from resnet_cli.jobs.ray_cluster import Cluster
from resnet_cli.progress import Silent, how_many

if TYPE_CHECKING:
    from resnet_cli.data.decode import Source

MOST_CORES = 8  # of an actor: with more, Python's own work on each image would hold it up
_ATTEMPTS, _MOST_ATTEMPTS = "attempts", 5  # a folder of the output, with a file per attempt at an unfinished block
_REMOTE_THREADS = 16  # that read images from another machine, where most of the time is waiting


@dataclass(frozen=True)
class Work:
    """What an actor needs, sent to it once: blocks to read, the classifiers, and how to run them.

    Attributes:
        output: the output folder.
        manifest: what it holds.
        base: folder that relative names start from.
        classifiers: the members of the ensemble.
        models: for machines that do not see its files, the hash of each model.xml, and its content in Ray's object store.
        engine: engine of the forward passes.
        threads: threads of an actor; None = one per core of its machine.
    """

    output: Place
    manifest: Manifest
    base: Place
    classifiers: tuple[Ready, ...]
    models: tuple[Any, ...]
    engine: EngineName
    threads: int | None


def forget_attempts(output: Place) -> None:
    """Count the attempts at all blocks from zero."""
    remove_folder(output.inside(_ATTEMPTS))


def model_hash(ready: Ready) -> str:
    """SHA-256 of a classifier's weights; of its OpenVINO model where there are none."""
    return digest(ready.weights) if ready.weights is not None and ready.weights.exists() else file_hash(ready.model)


def file_hash(model: Path) -> str:
    """SHA-256 of a model.xml and its model.bin; empty if they are missing."""
    files = (model, model.with_suffix(".bin"))
    return "-".join(digest(file)[:32] for file in files) if model.exists() else ""


def cores_per_actor(cluster: Cluster, engine: EngineName) -> int:
    """Cores of an actor: those that come with a GPU; else at most 8 of its machine, so that every machine is used up."""
    if engine == "keras" and cluster.gpus:
        return max(1, min(machine.cores // machine.gpus for machine in cluster.machines if machine.gpus))
    cores = [machine.cores for machine in cluster.machines if machine.cores]
    if not cores:
        raise ResnetError("the Ray cluster has no cores for this", "start its machines without --num-cpus=0")
    return min(MOST_CORES, *cores) if engine != "keras" else min(cores)


def actors(cluster: Cluster, engine: EngineName) -> int:
    """Number of actors: one per GPU, else as many as fit onto the machines."""
    if engine == "keras" and cluster.gpus:
        return cluster.gpus
    per = cores_per_actor(cluster, engine)
    return sum(machine.cores // per for machine in cluster.machines)


def _nothing() -> None:
    """No `Novelty`."""


def _fail(error: ResnetError) -> bytes:
    raise error


class BlockClassifier:
    """The actor: classifies blocks by number. An error that the user can fix is returned, as Ray would repeat the block."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._sources = Sources(work.base)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        number = int(batch["block"][0])
        try:
            images, errors = self._run(number)
            return {"images": [images], "errors": [errors], "failure": [""], "hint": [""]}
        except ResnetError as error:
            return {"images": [0], "errors": [0], "failure": [error.message], "hint": [error.hint]}

    def _run(self, number: int) -> tuple[int, int]:
        work = self._work
        if exists(block_file(work.output, number)):  # its actor died after it had written it
            (notes,) = read_notes(work.output, [number])
            return notes["images"], notes["errors"]
        self._count_attempt(number)
        from resnet_cli.data.decode import Remote
        from resnet_cli.inference.classify import classify
        from resnet_cli.inference.scoring import BlockRows

        names, labels = read_block(work.output, work.manifest, number)
        files = list(map(self._source, names))
        threads = work.threads
        if any(isinstance(file, Remote) for file in files):
            threads = max(_REMOTE_THREADS, 2 * (threads or 0))
        options, classes = work.manifest.options, work.classifiers[0].classes
        rows = BlockRows(classes, options["top"], labels)
        for name, result in zip(names, classify(files, self._members, options["views"], None, threads), strict=True):
            rows.add(name, result)
        member = self._members[0]
        notes = {"images": len(names), "errors": rows.errors, "engine": f"{member.engine.name} {member.engine.precision}"}
        write_block(work.output, number, rows.table(options["features"]), notes)
        remove_folder(work.output.inside(_ATTEMPTS, str(number)))
        return len(names), rows.errors

    def _source(self, name: str) -> "Source":
        """What to decode; a URL that cannot be opened raises its error there, as an image that cannot be read does."""
        from resnet_cli.data.decode import Remote

        try:
            place = self._sources.find(name)
        except ResnetError as error:
            return Remote(name, partial(_fail, error))
        return Remote(place.name, partial(read_bytes, place)) if isinstance(place, Place) else place

    def _count_attempt(self, number: int) -> None:
        """Give up a block whose actor died several times, which Ray would repeat forever.

        Raises:
            ResnetError: it did.
        """
        place = self._work.output.inside(_ATTEMPTS, str(number))
        count = len(children(place))
        if count == _MOST_ATTEMPTS:
            first = number * self._work.manifest.block
            raise ResnetError(
                f"the actor of block {number}, which begins with image {first} of the list, died {how_many(count, 'time')}",
                "there may be too little memory, or an image that crashes the decoder: leave it out of the input",
            )
        write_whole(place.inside(str(count)), b"")

    @cached_property
    def _members(self) -> Any:
        """The classifiers, loaded with the first block."""
        work = self._work
        # The rows have no column for the distance from the training images.
        found = [replace(self._model(index, each), novelty=_nothing) for index, each in enumerate(work.classifiers)]
        return load_members(found, "many", work.engine, Silent(), work.manifest.options["features"], work.threads)

    def _model(self, index: int, ready: Ready) -> Ready:
        """A classifier with a model.xml of this machine: the same file, or a copy in the user's cache."""
        if not self._work.models:
            return ready
        wanted, content = self._work.models[index]
        copy = replace(ready, model=cache_folder() / "bulk" / wanted / "model.xml")
        if file_hash(ready.model) == wanted:
            return ready
        if file_hash(copy.model) != wanted:
            import ray

            xml, weights = ray.get(content)
            local = find_place(str(copy.model.parent))
            write_whole(local.inside("model.bin"), weights)
            write_whole(local.inside("model.xml"), xml)
        return copy
