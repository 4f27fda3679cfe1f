"""Small real models, trained here, on which the damage of compression is measured: LLaVA, Whisper and CLIP architectures."""
