"""Files: safetensors checkpoints, atomic writes, JSON that people write."""
