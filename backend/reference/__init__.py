"""Reference pictures: the crater renderer, its captions, and the reference set."""
