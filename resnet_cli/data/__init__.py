"""Layout of a folder, splits, decoding, augmentation, batches, and checks of all that."""
