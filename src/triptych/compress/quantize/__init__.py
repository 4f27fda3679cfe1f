"""Quantisation of weights and activations: grids, GPTQ and round-to-nearest, calibration statistics, storage."""
