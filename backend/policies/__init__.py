"""The three policies, the critic, and averages of saved policies."""
