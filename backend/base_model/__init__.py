"""Training of the embedded model from the renderer: data, linear code, decoder, denoiser, assembly, measurement."""
