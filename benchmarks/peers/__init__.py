"""Other compressors and engines, each in an environment of its own, run on the same model and the same calibration tensors."""
