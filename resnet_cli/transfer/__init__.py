"""Fine-tuning a pretrained network. `jobs/finetune.py` calls `run_frozen` and then `transfer`, both in phases.py.

    phases.py      the order of events: frozen layers, head phase, fine-tuning phase, and which phase's weights are kept
    features.py    the views of every image, and their features: read from a store, or computed by the frozen layers
    store.py       files of feature rows by key, in the run and in the user's cache; resume.json
    head.py        the head phase: `train_head`, on stored features
    folds.py       `--folds`: the head cross-validated on stored features
    tail.py        the fine-tuning phase: which layers training/loop.py trains, by which recipe, and the batches of both phases
    time_limit.py  views and epochs that fit into --time-limit

In files (metrics.jsonl, checkpoint/, `kept`) the fine-tuning phase is called "tail".

On Ctrl-C, the rows computed so far are written (`Store.new_file`); a phase that AdamW trains writes a checkpoint
(training/checkpoints.py). A solved head writes nothing: solving it again takes seconds. --resume runs the same steps in the
same order and skips whatever is found on disk.
"""
