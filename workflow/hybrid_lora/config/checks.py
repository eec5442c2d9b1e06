"""What a schema cannot say: references, budgets, divisibility, files. Only what the runs at hand use is checked."""

from hybrid_lora.config import paths, words


def check(values, rows, base, origin):
    """UserError on the first mistake; rows: of the runs table."""
    _check_rows(values, rows)
    methods = [values["methods"][row.run.method] for row in rows]
    objectives = _ordered(row.run.objective for row in rows if row.run.objective)
    models = _ordered(row.run.model for row in rows)
    probes = {m["probe"]: name for name, m in values["methods"].items() if m in methods and m["placement"] == "criterion"}
    corpora = []
    for name in models:
        corpora += _check_model(values, name, base, origin)
    for name, method in probes.items():
        corpora += _check_probe(values, name, method, origin)
    for name in objectives:
        corpora += _check_objective(values, name, origin)
    for path, name in corpora:
        if name not in values["corpora"]:
            raise origin.error(path, f"corpus {words.choice(name, values['corpora'])}")
        _check_corpus(values, name, base, origin)
    for probe in probes:
        _check_validation(values, probe, origin)
    prompts = {method["prompt"]: row for method, row in zip(methods, rows)}
    _check_benchmarks(values, prompts, base, origin)
    _check_figure(values, rows, origin)


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


def _check_probe(values, name, method, origin):
    if name not in values["probes"]:
        raise origin.error(("methods", method, "probe"), f"probe {words.choice(name, values['probes'])}")
    probe, path = values["probes"][name], ("probes", name)
    partitions, chunk = probe["sensitivity"]["partitions"], probe["sensitivity"]["batches_per_chunk"]
    if partitions % chunk:
        key = (*path, "sensitivity", "batches_per_chunk")
        raise origin.error(key, f"is {chunk}, must divide partitions, {partitions}")
    return [((*path, "corpus"), probe["corpus"])]


def _check_validation(values, name, origin):
    """The validation batches are disjoint: the corpus must hold out enough rows."""
    probe = values["probes"][name]
    needed = probe["sensitivity"]["partitions"] * probe["sensitivity"]["batch_size"]
    held = values["corpora"][probe["corpus"]]["validation_rows"]
    if held < needed:
        what = f"is {held}, probe '{name}' needs partitions * batch_size = {needed} rows"
        raise origin.error(("corpora", probe["corpus"], "validation_rows"), what)


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
    return [((*path, "corpus"), objective["corpus"])]


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
            f"a run resumes exactly only between generations",
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


def _ordered(names):
    return list(dict.fromkeys(names))
