"""The trainer, what hosts it, and what it writes. Nothing in here knows that a page exists."""
