"""Recipes, optimizers, schedules, the one training loop, callbacks, checkpoints, distillation."""
