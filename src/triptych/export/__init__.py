"""Writing models for other runtimes and other readers. Every export is compared with the model it came from before it is published."""
