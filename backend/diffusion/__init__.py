"""The diffusion model as a Markov decision process: backbone, noise, one denoising step, rollout and what it recorded."""
