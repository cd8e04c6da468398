"""Proximal policy optimisation: credit, losses, updates and their state."""
