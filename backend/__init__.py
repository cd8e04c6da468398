"""CraterLab: fine-tuning diffusion models for diversity by reinforcement learning. No module in here imports the page."""
