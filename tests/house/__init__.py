"""The house keeps its own laws (DESIGN §2 and §6.12): read from the syntax tree, nothing is run."""
