"""resnet: a folder of photos in, a trained, measured, portable residual-network classifier out."""

__version__ = "0.1.0"
