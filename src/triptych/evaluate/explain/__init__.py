"""Seeing why: what each modality gave to an answer, and where in a picture, a sound or a text the model found it."""
