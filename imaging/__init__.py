"""Image files as pixels: the one way for training and serving, so that a model is served what it was trained on.

Knows Pillow and numpy alone.
"""
