"""File handling: safetensors checkpoints, atomic writes, and validation of JSON and values."""
