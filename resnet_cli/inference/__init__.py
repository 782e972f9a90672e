"""Classify images, and measure how well that went."""
