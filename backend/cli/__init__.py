"""The command line: thin commands over the layers to their left."""
