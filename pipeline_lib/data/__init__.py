"""Where problems come from and how they are made fit to train on: sources, layouts, cleaning, difficulty (design §2)."""
