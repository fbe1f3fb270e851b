"""Export, on-device training and certification of `.tflite` models, and merging of their updates.

Names are loaded lazily (PEP 562). Reading metadata and updates, and training on a device, never
load TensorFlow.
"""

from fedsup_tf.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "tflite.certify.certify": ["certify_tflite"],
        "tflite.device.trainer": ["DeviceTrainer"],
        "tflite.export.export": ["export_tflite"],
        "tflite.export.quantize": ["export_inference"],
        "tflite.format.metadata": ["read_metadata"],
        "tflite.format.update_file": ["DeviceUpdate", "read_update", "write_update"],
        "tflite.merge.merge": ["merge_updates"],
    },
)
