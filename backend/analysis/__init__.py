"""Reading finished and running runs: trends, comparisons, figures, reports. Nothing here imports torch."""
