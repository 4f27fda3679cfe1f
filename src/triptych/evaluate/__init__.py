"""Measuring a model: quality under every condition with paired intervals, speed, memory, size."""
