"""Before and after on test prompts, judged by what the reward never saw."""
