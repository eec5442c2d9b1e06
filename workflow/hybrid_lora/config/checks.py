"""What a schema cannot say: references, budgets, divisibility, files. Only what the runs at hand use is checked."""

import importlib.util

from hybrid_lora.config import compute, paths, probe_checks, words
from hybrid_lora.contracts.benchmark_names import VERSIONS


def check(values, rows, base, origin):
    """UserError on the first mistake; rows: of the runs table."""
    check_used(values, rows, base, origin)
    _check_logging(values, origin)
    _check_figure(values, rows, origin)
    _check_comparisons(values, rows, origin)


def check_used(values, rows, base, origin):
    """The same of what these rows use alone."""
    _check_rows(values, rows)
    methods = [values["methods"][row.run.method] for row in rows]
    objectives = _ordered(row.run.objective for row in rows if row.run.objective)
    models = _ordered(row.run.model for row in rows)
    probes = {m["probe"]: name for name, m in values["methods"].items() if m in methods and m["placement"] == "criterion"}
    corpora, warmups = [], []
    for name in models:
        corpora += _check_model(values, name, base, origin)
    for name, method in probes.items():
        corpora += probe_checks.check(values, name, method, _criteria(methods, name), origin)
        warmups += probe_checks.objectives(values, name, _criteria(methods, name))
    for name in _ordered([*objectives, *warmups]):
        corpora += _check_objective(values, name, origin)
    for path, name in corpora:
        if name not in values["corpora"]:
            raise origin.error(path, f"corpus {words.choice(name, values['corpora'])}")
        _check_corpus(values, name, base, origin)
    for probe in probes:
        probe_checks.check_validation(values, probe, _criteria(methods, probe), origin)
    prompts = {method["prompt"]: row for method, row in zip(methods, rows)}
    _check_benchmarks(values, prompts, base, origin)
    _check_engine(values, origin)
    compute.check(values, objectives, warmups, origin)


def _criteria(methods, probe):
    return _ordered(m["criterion"] for m in methods if m["placement"] == "criterion" and m["probe"] == probe)


def _check_rows(values, rows):
    for row in rows:
        run = row.run
        for column, section in (("model", "models"), ("method", "methods"), ("objective", "objectives")):
            name = getattr(run, column)
            if name is not None and name not in values[section]:
                raise row.error(column, words.choice(name, [*values[section], *(["-"] if column == "objective" else [])]))
        placement = values["methods"][run.method]["placement"]
        if placement == "none" and run.objective:
            raise row.error("objective", f"method '{run.method}' trains nothing (placement none), so objective must be '-'")
        if placement != "none" and not run.objective:
            known = ", ".join(values["objectives"])
            raise row.error("objective", f"method '{run.method}' is trained, so '-' does not do; allowed: {known}")
        if placement == "criterion" and run.budget is None:
            raise row.error("budget", f"method '{run.method}' selects modules by a criterion and needs a budget, not '-'")
        if placement != "criterion" and run.budget is not None:
            raise row.error("budget", f"method '{run.method}' has no criterion (placement {placement}), so budget must be '-'")


def _check_model(values, name, base, origin):
    """Corpora the model needs, as (path of the key, corpus)."""
    model, path = values["models"][name], ("models", name)
    if model["source"] == "local":
        folder = paths.model_folder(model["path"], base)
        if not (folder / "config.json").is_file():
            what = "holds no config.json" if folder.is_dir() else "no such folder"
            raise origin.error((*path, "path"), f"{what}: {model['path']}; allowed: a Hugging Face model folder")
    if model["source"] != "scratch":
        return []
    shape = model["architecture"]
    for key, by in (("hidden_size", "num_attention_heads"), ("num_attention_heads", "num_key_value_heads")):
        if shape[key] % shape[by]:
            raise origin.error((*path, "architecture", key), f"is {shape[key]}, must be a multiple of {by}, {shape[by]}")
    return [((*path, "corpus"), model["corpus"])]


def _check_objective(values, name, origin):
    objective, path = values["objectives"][name], ("objectives", name)
    if objective["algorithm"] == "sft":
        size, device = objective["batch_size"], objective["device_batch_size"]
        if size % device:
            raise origin.error((*path, "batch_size"), f"is {size}, must be a multiple of device_batch_size, {device}")
    else:
        _check_generations(objective, path, origin)
        if not any(objective["rewards"].values()):
            raise origin.error((*path, "rewards"), "all weights are 0, so nothing is rewarded; one must be above 0")
        _check_rollouts(objective, path, origin)
    if objective["dtype"] == "bfloat16" and objective["precision"] == "fp32":
        raise origin.error((*path, "dtype"), "is bfloat16, which needs precision: bf16, as trained weights are float32")
    used = [((*path, "corpus"), objective["corpus"])]
    if objective.get("code_corpus") is not None:
        if "code" not in objective["sources"]:
            what = (
                f"is {objective['code_corpus']}, but sources ({', '.join(objective['sources'])}) lacks code: no row of it is used"
            )
            raise origin.error((*path, "code_corpus"), what)
        used.append(((*path, "code_corpus"), objective["code_corpus"]))
    if objective["algorithm"] != "sft":
        _check_sources(values["corpora"], objective, path, origin)
    return used


def _check_sources(corpora, objective, path, origin):
    """That rewards have something to verify: known corpora, as far as their formats tell."""
    name, programs = objective["corpus"], objective.get("code_corpus")
    if name not in corpora or (programs is not None and programs not in corpora):
        return  # said elsewhere
    if programs == name:
        raise origin.error((*path, "code_corpus"), "is the objective's corpus, whose code rows are used already; leave it out")
    if programs is not None and "code" not in _verifiable(corpora[programs]):
        what = f"is {programs}, which has no programs with tests; allowed: a corpus of format leetcode, or one that brings tests"
        raise origin.error((*path, "code_corpus"), what)
    there = _verifiable(corpora[name])
    if programs is None and not there & set(objective["sources"]):
        what = f"is [{', '.join(objective['sources'])}], of which corpus {name} has nothing that can be verified; "
        raise origin.error((*path, "sources"), f"{what}allowed: {', '.join(sorted(there))}")


def _verifiable(corpus):
    """Sources of which a corpus can hold rows with a gold or tests; the hub's mixture-of-thoughts has code without tests."""
    if corpus["format"] != "mixture-of-thoughts":
        return {"gsm8k": {"math"}, "leetcode": {"code"}}[corpus["format"]]
    return {"math", "science"} if corpus["data"] == "hub" else {"math", "science", "code"}


def _check_rollouts(objective, path, origin):
    longest, needed = objective["vllm"]["max_model_len"], objective["max_completion_tokens"]
    if objective["rollouts"] == "vllm" and longest is not None and longest <= needed:
        what = f"is {longest}, must be more than max_completion_tokens, {needed}: the prompt comes on top"
        raise origin.error((*path, "vllm", "max_model_len"), what)


def _check_generations(objective, path, origin):
    completions = objective["prompts_per_generation"] * objective["group_size"]
    parts = objective["updates_per_generation"] * objective["device_batch_size"]
    if completions % parts:
        raise origin.error(
            (*path, "prompts_per_generation"),
            f"prompts_per_generation * group_size is {completions}, must be a multiple of "
            f"updates_per_generation * device_batch_size, {parts}",
        )
    window = objective["updates_per_generation"] * objective["iterations"]
    if objective["save_every"] % window:
        raise origin.error(
            (*path, "save_every"),
            f"is {objective['save_every']}, must be a multiple of updates_per_generation * iterations, {window}: "
            f"elsewhere a checkpoint would have to hold completions, too",
        )


def _check_corpus(values, name, base, origin):
    corpus, path = values["corpora"][name], ("corpora", name)
    if corpus["data"] == "generated" and corpus["format"] != "mixture-of-thoughts":
        raise origin.error((*path, "format"), f"is {corpus['format']}, with data: generated it must be mixture-of-thoughts")
    _check_data(values, path, corpus["data"], base, origin)


def _check_benchmarks(values, prompts, base, origin):
    for position, name in enumerate(values["evaluation"]["benchmarks"]):
        if name not in values["benchmarks"]:
            what = f"benchmark {words.choice(name, values['benchmarks'])}"
            raise origin.error(("evaluation", "benchmarks", position), what)
        benchmark, path = values["benchmarks"][name], ("benchmarks", name)
        if benchmark["k"] > benchmark["samples"]:
            raise origin.error((*path, "k"), f"is {benchmark['k']}, must be at most samples, {benchmark['samples']}")
        if benchmark["samples"] > 1 and benchmark["temperature"] == 0:
            raise origin.error((*path, "temperature"), f"is 0, so all {benchmark['samples']} samples agree; must be above 0")
        for prompt, row in prompts.items():
            if prompt not in benchmark["prompts"]:
                known = ", ".join(benchmark["prompts"])
                what = f"prompt '{prompt}' of method '{row.run.method}' ({row.where}) is missing; defined: {known}"
                raise origin.error((*path, "prompts"), what)
        _check_data(values, path, benchmark["data"], base, origin)
        _check_version(benchmark, path, origin)
        _check_few_shot(values, benchmark, path, prompts, base, origin)


def _check_engine(values, origin):
    engine, gpus = values["evaluation"]["vllm"], values["compute"]["gpus"]
    used = engine["tensor_parallel"] * engine["data_parallel"]
    if values["evaluation"]["backend"] == "vllm" and used > max(gpus, 1):  # 0: one engine on the processor
        what = f"tensor_parallel * data_parallel is {used}, must be at most compute.gpus, {gpus}"
        raise origin.error(("evaluation", "vllm"), what)


def _check_logging(values, origin):
    for position, name in enumerate(values["logging"]["report_to"]):
        if importlib.util.find_spec(name) is None:
            what = f"{name} is not installed here; pip install {name}, or take it out of the list"
            raise origin.error(("logging", "report_to", position), what)


def _check_version(benchmark, path, origin):
    version, problems, known = benchmark["version"], benchmark["problems"], VERSIONS[benchmark["format"]]
    if version is not None and benchmark["data"] != "generated":
        if version not in known:
            raise origin.error((*path, "version"), words.choice(version, [*known, "null"]))
        if problems > known[version]:
            raise origin.error((*path, "problems"), f"is {problems}, version {version} has {known[version]}")
    if (benchmark["subset"] or 0) > problems:
        raise origin.error((*path, "subset"), f"is {benchmark['subset']}, must be at most problems, {problems}")


def _check_few_shot(values, benchmark, path, prompts, base, origin):
    shots = benchmark.get("few_shot")
    if not shots or not shots["count"]:
        return
    for prompt in prompts:
        if prompt not in shots["answers"]:
            raise origin.error((*path, "few_shot", "answers"), f"lacks prompt '{prompt}'; defined: {', '.join(shots['answers'])}")
    if shots["data"] == "generated":
        raise origin.error((*path, "few_shot", "data"), "is 'generated'; allowed: hub, or a file")
    _check_data(values, (*path, "few_shot"), shots["data"], base, origin)


def _check_data(values, path, data, base, origin):
    if data in paths.NOT_FILES:
        return
    if not data.endswith(paths.SUFFIXES):
        allowed = [*paths.NOT_FILES, f"a file ending in {', '.join(paths.SUFFIXES)}"]
        raise origin.error((*path, "data"), words.choice(data, allowed))
    if paths.data_file(data, values["data_dir"], base) is None:
        looked_up = f"data_dir ({values['data_dir']}), then beside the Snakefile"
        raise origin.error((*path, "data"), f"no such file: {data}; looked up in {looked_up}")


def _check_figure(values, rows, origin):
    wanted = values["report"]["figure2"]["runs"] or []
    placed = [row.run.run for row in rows if values["methods"][row.run.method]["placement"] == "criterion"]
    for position, name in enumerate(wanted):
        if name not in placed:
            raise origin.error(("report", "figure2", "runs", position), f"run with an allocation {words.choice(name, placed)}")


def _check_comparisons(values, rows, origin):
    models = {row.run.run: row.run.model for row in rows}
    for position, pair in enumerate(values["report"]["comparisons"]["pairs"] or []):
        path = ("report", "comparisons", "pairs", position)
        for place, name in enumerate(pair):
            if name not in models:
                raise origin.error((*path, place), f"run {words.choice(name, models)}")
        if models[pair[0]] != models[pair[1]]:
            found = f"{models[pair[0]]} and {models[pair[1]]}"
            raise origin.error(path, f"compares runs of two models, {found}; allowed: runs of one model")


def _ordered(names):
    return list(dict.fromkeys(names))
