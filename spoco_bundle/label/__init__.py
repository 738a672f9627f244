"""Annotate, train, predict, correct with MONAI Label: its server's environment and folders, and the app it runs.

``app`` and what it imports live in the server's own environment; nothing else of the bundle imports MONAI Label.
"""
