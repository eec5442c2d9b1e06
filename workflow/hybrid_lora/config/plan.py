"""The checked configuration as Snakemake needs it: for every job the settings it uses, nothing else.

A rule's one parameter is a `Settings` dict: Snakemake compares it between runs, the shell line gets it as JSON.
"""

import json
from pathlib import Path

from hybrid_lora.config import paths

RESULTS = "results"


class Settings(dict):
    """A dict with sorted keys that prints as JSON, so that `{params.settings:q}` is a shell word a person can copy."""

    def __init__(self, values):
        super().__init__(_sorted(values))

    def __str__(self):
        return json.dumps(self, ensure_ascii=False)

    __format__ = object.__format__


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


class Plan:
    """What the rules ask: names for wildcards, settings of jobs, inputs that depend on the configuration."""

    def __init__(self, config, base):
        self.values, self.base = config.values, Path(base)
        self.runs = {run.run: run for run in config.runs}
        self.benchmarks = self.values["evaluation"]["benchmarks"]
        self.gpus = self.values["compute"]["gpus"]
        self.allocations = {self.allocation_name(run): run for run in config.runs if self.placement(run) == "criterion"}

    def local_source(self, section, name):
        """[path] of the local file behind a corpus or benchmark, [] where it is generated or from the hub."""
        data = self.values[section][name]["data"]
        if data in ("hub", "generated"):
            return []
        return [self._relative(paths.data_file(data, self.values["data_dir"], self.base))]

    def _relative(self, path):
        # Paths inside the checkout are relative, so that moving it reruns nothing.
        return str(path.relative_to(self.base) if path.is_relative_to(self.base) else path)

    def _source_settings(self, entry, keys):
        picked = {key: entry[key] for key in ("format", "data", *keys)}
        if entry["data"] in ("hub", "generated"):
            picked[entry["data"]] = entry[entry["data"]]
        else:
            picked["data"] = "local"  # the file itself is an input; moving it changes nothing
        return picked

    def corpus(self, name):
        """Settings of `data corpus`."""
        keys = ("prompt", "validation_rows", "max_rows", "max_tokens", "seed")
        return Settings(self._source_settings(self.values["corpora"][name], keys))

    def benchmark(self, name):
        """Settings of `data benchmark`."""
        entry = self.values["benchmarks"][name]
        keys = ("problems", "option_order") if entry["format"] == "gpqa" else ("problems",)
        return Settings({"name": name, **self._source_settings(entry, keys)})

    def model(self, name):
        """Settings of `model fetch` or `model pretrain`."""
        entry = self.values["models"][name]
        if entry["source"] != "scratch":
            return Settings(entry)
        return Settings({"name": name, **{key: entry[key] for key in ("tokenizer", "architecture", "pretraining")}})

    def model_corpus(self, name):
        """The corpus a model is trained on from scratch."""
        return self.values["models"][name]["corpus"]

    def model_files(self, name):
        """Files of a local model folder."""
        entry = self.values["models"][name]
        if entry["source"] != "local":
            return []
        folder = paths.model_folder(entry["path"], self.base)
        kinds = (".json", ".safetensors", ".bin", ".model", ".jinja")
        return sorted(self._relative(p) for p in folder.iterdir() if p.suffix in kinds)

    def models_from(self, *sources):
        """Names of the models with one of these sources."""
        return [name for name, entry in self.values["models"].items() if entry["source"] in sources]

    def warmup(self, probe):
        """Settings of `probe warmup`."""
        return Settings({key: self.values["probes"][probe][key] for key in ("rank", "init", "warmup")})

    def sensitivity(self, probe):
        """Settings of `probe sensitivity`; the number of partitions is not among them, so K can grow."""
        entry = self.values["probes"][probe]["sensitivity"]
        return Settings({key: value for key, value in entry.items() if key != "partitions"})

    def chunks(self, probe):
        """Names of the chunks that hold batches 0..K-1."""
        entry = self.values["probes"][probe]["sensitivity"]
        return [f"{i:03d}" for i in range(-(-entry["partitions"] // entry["batches_per_chunk"]))]

    def dumps(self, model, probe, criterion):
        """The sensitivity chunks that a criterion aggregates; none for random."""
        if criterion == "random":
            return []
        folder = f"{RESULTS}/probe/{model}/{probe}/sensitivity"
        return [f"{folder}/chunk-{chunk}.parquet" for chunk in self.chunks(probe)]

    def scores(self, model, probe, criterion):
        """Settings of `scores aggregate`."""
        entry = self.values["probes"][probe]["sensitivity"]
        extra = {"seed": entry["seed"]} if criterion == "random" else {"partitions": entry["partitions"]}
        return Settings({"criterion": criterion, "model": model, "probe": probe, **extra})

    def method(self, run):
        """The method entry of a run (name or Run)."""
        return self.values["methods"][self._run(run).method]

    def placement(self, run):
        """none | full | lora | criterion."""
        return self.method(run)["placement"]

    def allocation_name(self, run):
        """{model}.{probe}.{criterion}.{unit}-{ratio} of a run placed by a criterion."""
        run, method = self._run(run), self.method(run)
        return f"{run.model}.{method['probe']}.{method['criterion']}.{self.values['allocation']['unit']}-{run.budget:g}"

    def allocation(self, name):
        """Settings of `allocation select`."""
        entry = self.values["allocation"]
        amount = self.allocations[name].budget
        return Settings({"amount": amount, **{key: entry[key] for key in ("unit", "overflow", "lora")}})

    def allocation_scores(self, name):
        """The score file behind an allocation."""
        run = self.allocations[name]
        method = self.method(run)
        return f"{RESULTS}/scores/{run.model}/{method['probe']}/{method['criterion']}.parquet"

    def run_allocation(self, run):
        """[allocation file] of a run placed by a criterion, else []."""
        return [f"{RESULTS}/allocation/{self.allocation_name(run)}.json"] if self.placement(run) == "criterion" else []

    def run_policy(self, run):
        """[policy manifest] of a trained run, [] for io and cot."""
        return [] if self.placement(run) == "none" else [f"{RESULTS}/training/{self._run(run).run}/policy/manifest.json"]

    def objective_corpus(self, run):
        """The corpus a run is trained on."""
        return self.values["objectives"][self._run(run).objective]["corpus"]

    def training(self, name):
        """Settings of `training train`."""
        run = self._run(name)
        objective = self.values["objectives"][run.objective]
        settings = {"run": run.run, "seed": run.seed, "placement": self.placement(run), "objective": objective}
        if settings["placement"] == "lora":  # a criterion's allocation file brings its own
            settings["lora"] = self.values["allocation"]["lora"]
        if objective["algorithm"] != "sft":
            settings["grading"] = self.values["grading"]
        return Settings(settings)

    def completions(self, name, benchmark):
        """Settings of `evaluation complete`."""
        run, entry = self._run(name), self.values["benchmarks"][benchmark]
        engine = {key: self.values["evaluation"][key] for key in ("backend", "batch_size", "dtype")}
        sampling = {key: entry[key] for key in ("samples", "temperature", "top_p", "max_new_tokens")}
        prompt = entry["prompts"][self.method(run)["prompt"]]
        return Settings({"run": run.run, "seed": run.seed, "benchmark": benchmark, "prompt": prompt, **engine, **sampling})

    def grading(self):
        """Settings of `evaluation grade`."""
        return Settings(self.values["grading"])

    def metrics(self, benchmark):
        """Settings of `evaluation metrics`."""
        return Settings({key: self.values["benchmarks"][benchmark][key] for key in ("k", "samples")} | {"seed": 0})

    def figure2_runs(self):
        """The runs whose allocations Figure 2 shows: those named, else the first of each model."""
        named = self.values["report"]["figure2"]["runs"]
        if named:
            return [self.runs[name] for name in named]
        first = {}
        for run in self.allocations.values():
            first.setdefault(run.model, run)
        return list(first.values())

    def figure2(self):
        """Settings of `report figure2`."""
        entry = self.values["report"]["figure2"]
        labels = [f"{run.model}, {run.method}" for run in self.figure2_runs()]
        return Settings({"labels": labels, **{key: entry[key] for key in ("full_colour", "lora_colour")}})

    def metrics_files(self):
        """All metrics files, run by run."""
        return [metrics_file(run, benchmark) for run in self.runs for benchmark in self.benchmarks]

    def trainable_files(self):
        """The trainable-parameter counts of all trained runs."""
        return [f"{RESULTS}/training/{name}/trainable.json" for name in self.runs if self.placement(name) != "none"]

    def table1(self):
        """Settings of `report table1`."""
        rows = [
            {
                **{key: getattr(run, key) for key in ("run", "model", "method", "objective", "budget", "seed")},
                "metrics": {benchmark: metrics_file(run.run, benchmark) for benchmark in self.benchmarks},
                "tunable": f"{RESULTS}/training/{run.run}/trainable.json" if self.placement(run) != "none" else None,
            }
            for run in self.runs.values()
        ]
        columns = [{"name": name} for name in self.benchmarks]
        unit = self.values["allocation"]["unit"]
        return Settings({"rows": rows, "benchmarks": columns, "unit": unit, **self.values["report"]["table1"]})

    def index(self):
        """Settings of `report index`."""
        return Settings({"title": f"Results: {', '.join(dict.fromkeys(run.model for run in self.runs.values()))}"})

    def _run(self, run):
        return self.runs[run] if isinstance(run, str) else run


def metrics_file(run, benchmark):
    """Path of one metrics file."""
    return f"{RESULTS}/evaluation/{run}/{benchmark}/metrics.json"
