"""Set rewards with credit for each image: metrics, bonuses, and how they are put together."""
