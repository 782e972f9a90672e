"""Fine-tuning: frozen features, the head phase, the fine-tuning phase."""
