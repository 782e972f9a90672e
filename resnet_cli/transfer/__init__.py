"""Fine-tuning a pretrained network. `jobs/finetune.py` calls `run_frozen` and then `transfer`, both in phases.py.

    phases.py      the order of events: frozen layers, head phase, fine-tuning phase, and which of the two phases is kept
    features.py    the views of every image, and what the frozen layers give for them: from a store, or computed
    store.py       where that is stored: files of rows by key, in the run and in the user's cache; resume.json
    head.py        the head phase: `train_head`, on stored features
    tail.py        the fine-tuning phase: which layers training/loop.py trains, by which recipe, and the batches of both phases
    time_limit.py  views and epochs that fit into --time-limit

In files (metrics.jsonl, checkpoint/, `kept`) the fine-tuning phase is called "tail".

When Ctrl-C comes, rows that went through the frozen layers are written (`Store.new_file`), and in a phase that AdamW trains a
checkpoint (training/checkpoints.py). A head that is solved writes nothing: solving it again takes seconds. With --resume all is
called again in the same order, and whatever is found on the disk is not done again.
"""
