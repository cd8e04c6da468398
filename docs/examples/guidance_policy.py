"""A policy of one's own: SCHEDULER_POLICY whose mean can move the guidance only. Start with `--plugin docs/examples/guidance_policy.py --mode GUIDANCE_POLICY`."""

from backend.config.catalogue import POLICIES


@POLICIES.register("GUIDANCE_POLICY", "Learns the guidance of each prompt; the noise schedule's mean stays the stock one.")
def guidance_policy(config, backbone):
    """What the table holds is a function from settings and backbone to the policy; imports are inside, so that the page starts fast."""
    from backend.policies.scheduler import SchedulerPolicy

    policy = SchedulerPolicy(config, backbone)
    schedule_rows = slice(0, policy.action_dimension - 1)  # the last element of the action is the guidance

    def guidance_only(gradient):
        gradient = gradient.clone()
        gradient[schedule_rows] = 0
        return gradient

    # A gradient of exactly zero leaves these rows of the output layer at their start value, zero, which is the base.
    policy.head.weight.register_hook(guidance_only)
    policy.head.bias.register_hook(guidance_only)
    return policy
