"""Side-by-side measurements and the claims of the README."""
