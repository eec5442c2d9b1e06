"""How many processes a training runs on, and what speaks against it."""

import importlib.util

THREADS = 2  # of a training process


def launch(values):
    """{processes (of a node), nodes, strategy, threads (of a node)} of every training; no part of its settings."""
    asked = values["compute"]
    return {**{key: asked[key] for key in ("processes", "nodes", "strategy")}, "threads": THREADS * asked["processes"]}


def total(values):
    """Processes of a training on all of its nodes."""
    return values["compute"]["processes"] * values["compute"]["nodes"]


def rollouts(values):
    """What `rollouts: auto` stands for: vLLM where jobs have GPUs, of which its CPU build is no part."""
    return "vllm" if values["compute"]["gpus"] else "transformers"


def gpus(values):
    """GPUs of a training on one node; 0 on several, which ask for them by the node (see `resources`)."""
    return _each(values) if values["compute"]["nodes"] == 1 else 0


def resources(values):
    """What a training job asks of Slurm beyond one node's: {} for one.

    On several nodes the job runs outside of a step, to start steps itself, and GPUs are asked for by the node (`gres`), as a sum
    (`gpu`) may be divided unevenly.
    """
    nodes = values["compute"]["nodes"]
    if nodes == 1:
        return {}
    by_node = {"gres": f"gpu:{_each(values)}"} if _each(values) else {}
    return {"nodes": nodes, "tasks": nodes, "tasks_per_gpu": 0, "mpi": "srun", **by_node}


def _each(values):
    """GPUs of a training on each of its nodes."""
    return min(values["compute"]["gpus"], values["compute"]["processes"])


def check(values, objectives, warmups, origin):
    """UserError on the first mistake; objectives: names of those that runs use; warmups: of those that probes are warmed up by,
    in one process."""
    asked, path = values["compute"], ("compute",)
    processes, every = asked["processes"], total(values)
    if 0 < asked["gpus"] < processes:
        raise origin.error((*path, "processes"), f"is {processes}, must be at most compute.gpus, {asked['gpus']}: one GPU each")
    if asked["strategy"] != "ddp":
        _check_sharding(asked["strategy"], asked["gpus"], every, origin)
    for name in objectives:
        _check_engine(values["objectives"][name], ("objectives", name, "vllm"), asked["gpus"], every, "", origin)
        if every > 1:
            _check_share(values["objectives"][name], ("objectives", name), every, origin)
    for name in warmups:
        _check_engine(values["objectives"][name], ("objectives", name, "vllm"), asked["gpus"], 1, " of a warm-up", origin)


def _check_sharding(strategy, gpus, processes, origin):
    path = ("compute", "strategy")
    if processes == 1:
        raise origin.error(path, f"is {strategy}, which divides a model among processes, but there is one; allowed: ddp")
    if not gpus:
        raise origin.error(path, f"is {strategy}, which accelerate does on GPUs alone, and compute.gpus is 0; allowed: ddp")
    if strategy == "zero3" and importlib.util.find_spec("deepspeed") is None:
        raise origin.error(path, "is zero3, and deepspeed is not installed here; pip install deepspeed, or use fsdp2")


def _check_engine(objective, path, gpus, processes, of_what, origin):
    if objective.get("rollouts") != "vllm":
        return
    if objective["vllm"]["mode"] == "colocate":
        parallel = objective["vllm"]["tensor_parallel"]
        if processes % parallel:
            what = f"is {parallel}, must divide the number of processes{of_what}, {processes}"
            raise origin.error((*path, "tensor_parallel"), what)
        return
    if not gpus:
        what = "is server, which gets its weights over NCCL, from a GPU, and compute.gpus is 0; allowed: colocate"
        raise origin.error((*path, "mode"), what)
    if not objective["vllm"]["server"].startswith(("http://", "https://")):
        raise origin.error((*path, "server"), f"is '{objective['vllm']['server']}', must begin with http:// or https://")


def _check_share(objective, path, processes, origin):
    size = objective["device_batch_size"]
    if objective["algorithm"] == "sft":
        batch, unit, names = objective["batch_size"], size, ("batch_size", "device_batch_size")
    else:
        batch = objective["prompts_per_generation"] * objective["group_size"]
        unit = objective["updates_per_generation"] * size
        names = ("prompts_per_generation * group_size", "updates_per_generation * device_batch_size")
    if batch % (unit * processes):
        key = names[0].partition(" ")[0]
        what = f"{names[0]} is {batch}, must be a multiple of {names[1]} * {processes} processes, {unit * processes}"
        raise origin.error((*path, key), what)
