"""luthier builds and tunes language models: from raw documents to an aligned, evaluated model, on your own machine."""

__version__ = "0.1.0"
