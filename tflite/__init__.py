"""The artefact for phones: TensorFlow Lite files of subnets."""
