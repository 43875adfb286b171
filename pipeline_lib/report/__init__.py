"""The page people look at: one HTML file that loads nothing, and the table behind it.

`load` reads the run's files, `svg` draws, `sections` writes the parts, `page` puts them together, `results` is the
machine-readable table (models × suites) that `make demo` prints.
"""
