"""From rows of data to what the forward of a Hugging Face model takes."""
