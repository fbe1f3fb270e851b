"""The learning process: distribution, local training, evaluation, calibration."""
