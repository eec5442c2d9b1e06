"""What jobs need and this environment lacks: said before the first one starts, not after hours of those before it."""

import importlib.util


def check(jobs, plan, origin):
    """UserError if one of these jobs, which are to run in this environment, samples with vLLM and there is none.

    jobs: Snakemake's; plan: the Plan; origin: of the configuration, for the message.
    """
    if importlib.util.find_spec("vllm") is not None:
        return
    for job in jobs:
        path = _sampler(job.rule.name, job.wildcards, plan)
        if path and _value(plan.values, path) == "vllm":
            what = "vllm is to sample, which is not installed here; install envs/gpu.lock, or say transformers"
            raise origin.error(path, what)


def _sampler(rule, wildcards, plan):
    """The key that says who samples in a job; None where nobody does."""
    if rule == "completions":
        return "evaluation", "backend"
    if rule == "training":
        return "objectives", plan.runs[wildcards.run].objective, "rollouts"
    if rule == "warmup_rl":
        return "objectives", plan.probe(wildcards.probe)["warmup"]["objective"], "rollouts"
    return None


def _value(values, path):
    """None where there is no such key: supervised fine-tuning samples nothing."""
    for key in path:
        values = values.get(key, {})
    return values or None
