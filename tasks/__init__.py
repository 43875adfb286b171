"""One module a stage: `python -m tasks.<stage>`."""
