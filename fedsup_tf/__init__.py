"""Core library: search spaces, the supernet, local training, data and architecture search.

Names are loaded on first use (PEP 562); `import fedsup_tf` alone does not load TensorFlow.
"""

from fedsup_tf.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "fedsup_tf.accuracy": ["build_accuracy"],
        "fedsup_tf.calibrated_accuracy": ["build_calibrated_accuracy"],
        "fedsup_tf.architecture": ["Architecture"],
        "fedsup_tf.data.datasets": ["load_dataset"],
        "fedsup_tf.data.federated_dataset": ["FederatedDataset"],
        "fedsup_tf.data.partition": ["partition"],
        "fedsup_tf.data.preprocessing": ["Preprocessing"],
        "fedsup_tf.initial_weights": [
            "InitialWeights",
            "load_initial_weights",
            "take_initial_weights",
        ],
        "fedsup_tf.local_training": ["LocalTraining"],
        "fedsup_tf.client_update": ["local_update"],
        "fedsup_tf.presets": [
            "camera_224",
            "camera_96",
            "digits_small",
            "fedsup_cifar",
            "load_space",
        ],
        "fedsup_tf.search.budget": ["Budget", "CostModel"],
        "fedsup_tf.search.costs": ["architecture_cost", "count_macs", "count_parameters"],
        "fedsup_tf.search.evolution": ["search_architectures"],
        "fedsup_tf.search.latency": ["LatencyTable"],
        "fedsup_tf.space": ["SearchSpace"],
        "fedsup_tf.stage": ["Stage"],
        "fedsup_tf.supernet": ["Supernet"],
    },
)
