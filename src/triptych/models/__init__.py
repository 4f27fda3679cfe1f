"""The fusion model, the components found in a model, and its summary."""
