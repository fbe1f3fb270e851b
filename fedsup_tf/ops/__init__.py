"""Operations of the net and their gradients: fast, or made of TensorFlow Lite builtins alone."""
