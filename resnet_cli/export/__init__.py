"""Classifiers for other programs: formats, int8, parity, the example program beside each."""
