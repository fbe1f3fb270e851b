"""Shapes of a subnet's tensors, computed by rule; building a net would need TensorFlow."""


def subnet_shapes(space, architecture):
    """Returns each tensor's shape by name, for a space whose blocks do not expand."""
    shapes = {}

    def add(name, kernel, norm, channels):
        shapes[f"{name}/kernel"] = kernel
        shapes.update({f"{norm}/{part}": (channels,) for part in ("alpha", "beta", "gamma")})

    before = space.stem_width
    add("stem", (3, 3, space.image_shape[2], before), "stem_norm", before)
    choices = zip(
        space.stages, architecture.widths, architecture.depths, architecture.kernels, strict=True
    )
    for stage, width, depth, kernel in choices:
        for number in range(depth):
            block = f"{stage.name}_{number}"
            add(
                f"{block}/depthwise",
                (kernel, kernel, before, 1),
                f"{block}/depthwise_norm",
                before,
            )
            add(f"{block}/pointwise", (1, 1, before, width), f"{block}/pointwise_norm", width)
            if before != width:
                shapes[f"{block}/shortcut/kernel"] = (1, 1, before, width)
            before = width
    return {**shapes, "head/kernel": (before, space.classes), "head/bias": (space.classes,)}
