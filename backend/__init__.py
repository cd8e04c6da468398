"""CraterLab: PPO fine-tuning of diffusion models for diversity. No module in here imports the page."""
