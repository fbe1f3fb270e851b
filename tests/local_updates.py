"""Runs `local_update` eagerly, or in a graph as a federated client does."""

import numpy as np
import tensorflow as tf

from fedsup_tf.client_update import local_update

# For a graph that runs only a few steps, Grappler takes twice as long as everything else.
AS_TRACED = tf.compat.v1.ConfigProto()
AS_TRACED.graph_options.rewrite_options.disable_meta_optimizer = True


def update_eagerly(*arguments):
    """Returns the NumPy values of `local_update`, computed eagerly.

    Tracing a few steps takes several times as long as computing them.
    """
    tf.config.run_functions_eagerly(True)
    try:
        return tf.nest.map_structure(np.asarray, local_update(*arguments))
    finally:
        tf.config.run_functions_eagerly(False)


def update_in_graph(supernet, training, preprocessing, architecture=None):
    """Traces `local_update` for any client; returns the function that runs it.

    Without an architecture, sizes are unknown in the graph, as in a federated select, and the
    function takes the architecture as an argument.
    """
    placeholder, space = tf.compat.v1.placeholder, supernet.space
    with tf.Graph().as_default() as graph:
        if architecture is None:
            shapes = supernet.elastic_shapes(nested=True)
            code = placeholder(tf.int32, [len(space.choices)])
        else:
            slices = supernet.slices(architecture, nested=True)
            shapes = {name: part.size for name, part in slices.items()}
            code = architecture
        received = {name: placeholder(tf.float32, shape) for name, shape in shapes.items()}
        inputs = (
            placeholder(tf.uint8, [None, *space.image_shape]),
            placeholder(tf.int32, [None]),
            placeholder(tf.int32, [2]),
            placeholder(tf.float32, []),
        )
        update = local_update(supernet, received, code, *inputs, training, preprocessing)
        initialize = tf.compat.v1.global_variables_initializer()
    session = tf.compat.v1.Session(graph=graph, config=AS_TRACED)

    def run(weights, images, labels, seed, learning_rate, architecture=None):
        feed = {received[name]: value for name, value in weights.items()}
        feed.update(zip(inputs, (images, labels, seed, learning_rate), strict=True))
        if isinstance(code, tf.Tensor):
            feed[code] = space.encode(architecture)
        session.run(initialize, feed)
        return session.run(update, feed)

    return run
