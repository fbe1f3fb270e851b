"""Flatbuffers of models: parsing, graph rewriting and serialization."""
