"""Catalogue of networks, the residual builder, layers, the classifier, weights and where they come from."""
