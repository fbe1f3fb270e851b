"""The flatbuffer of a model: reading, passes over its graphs, writing."""
