"""Compression: a plan made of passes, the planner that finds it, and the gate that judges what is left."""
