"""Export of subnets as trainable and inference-only files."""
