"""On-device training with the stock runtime, without TensorFlow."""
