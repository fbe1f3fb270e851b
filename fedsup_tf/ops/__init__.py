"""Operations of the net with their gradients: fast ones, and ones of builtins alone."""
