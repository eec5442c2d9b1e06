"""What the rules of probes and scores ask of the configuration: settings of jobs, and which files a criterion reads."""

from hybrid_lora.config import variants
from hybrid_lora.config.settings import RESULTS, settings_of
from hybrid_lora.contracts.benchmark_names import GRADING, JUDGED

# criterion -> what it is computed from, below results/probe/{model}/{probe}/
SOURCES = {
    "hybrid": "sensitivity",
    "hybrid-1": "sensitivity",
    "hybrid-2": "sensitivity",
    "hybrid-3": "sensitivity",
    "inverted": "sensitivity",
    "hybrid-4": "full-sensitivity",
    "alpha": "warmup",
    "perturbation": "perturbation",
    "adalora": "adalora",
    "autolora": "autolora",
    "lora-drop": "outputs",
    "random": None,
}
# Which training the dumps of a kind were measured on: its manifest says whether they are still its own.
WARMUPS = {
    "sensitivity": "warmup",
    "perturbation": "warmup",
    "outputs": "warmup",
    "full-sensitivity": "full-warmup",
}


class Probing:
    """Part of `Plan`; `values` is the checked configuration."""

    values: dict

    def probe(self, name):
        """One entry of config `probes`, or what is derived from one by its name (see `variants`)."""
        return variants.entry(name, self.values["probes"])

    def _folder(self, model, name):
        """Where the warm-up and the dumps of a probe lie."""
        return f"{RESULTS}/probe/{model}/{variants.measured(name, self.values['probes'])}"

    def probe_corpus(self, name):
        """The corpus a probe is warmed up on (training rows) and scored on (validation rows)."""
        return self.probe(name)["corpus"]

    def warmed_up_by(self, objective):
        """Names of the probes, derived ones included, that are warmed up on next-token loss (nll) or by RL (rl)."""
        every = [*self.values["probes"], *self.derived_probes()]
        return [name for name in every if (self.probe(name)["warmup"]["objective"] == "nll") == (objective == "nll")]

    def _training(self, name):
        """The warm-up's options that every kind of probe shares: all but its objective."""
        return {key: value for key, value in self.probe(name)["warmup"].items() if key != "objective"}

    @staticmethod
    def used(objective):
        """An objective without the keys that it does not read: a setting of vLLM reruns nothing that transformers made."""
        without = "vllm" if objective.get("rollouts") != "vllm" else None
        return {key: value for key, value in objective.items() if key != without}

    def judging(self, objective):
        """The settings of grading that the rewards of an RL objective use, by the sources of its rows."""
        kinds = {kind for source in objective["sources"] for kind in JUDGED[source]}
        return {key: self.values["grading"][key] for kind in sorted(kinds) for key in GRADING[kind]}

    def _warmup_command(self, name):
        return "probe.warmup" if self.probe(name)["warmup"]["objective"] == "nll" else "probe.warmup_rl"

    @settings_of(_warmup_command)
    def warmup(self, name):
        """Settings of `probe warmup` or `probe warmup-rl`."""
        entry = self.probe(name)
        settings = {"rank": entry["rank"], "init": entry["init"], "warmup": dict(entry["warmup"])}
        objective = entry["warmup"]["objective"]
        if objective != "nll":
            unused = ("steps", "learning_rate", "schedule", "save_every", "validation", "weight_decay", "gradient_checkpointing")
            unused += ("dtype", "samples", "fast_layers", "code_corpus")
            chosen = {k: v for k, v in self.used(self.values["objectives"][objective]).items() if k not in unused}
            settings |= {"rl": chosen, "grading": self.judging(self.values["objectives"][objective])}
            settings["warmup"]["objective"] = "rl"
        return settings

    @settings_of("probe.sensitivity")
    def sensitivity(self, name):
        """Settings of `probe sensitivity`; the number of partitions is not among them, so K can grow."""
        return self._measurement(name, "sensitivity", "partitions")

    @settings_of("probe.full_sensitivity")
    def full_sensitivity(self, name):
        """Settings of `probe full-sensitivity` (hybrid-4): the batches of the sensitivities, without masks."""
        without = ("partitions", "probability", "seed")
        return self._measurement(name, "sensitivity", *without)

    @settings_of("probe.perturbation")
    def perturbation(self, name):
        """Settings of `probe perturbation`; the number of batches is not among them, so it can grow."""
        return self._measurement(name, "perturbation", "batches")

    def _measurement(self, name, section, *without):
        return {key: value for key, value in self.probe(name)[section].items() if key not in without}

    @settings_of("probe.outputs")
    def outputs(self, name):
        """Settings of `probe outputs` (lora-drop)."""
        return self.probe(name)["lora_drop"]

    @settings_of("probe.adalora")
    def adalora(self, name):
        """Settings of `probe adalora`."""
        return {"warmup": self._training(name), "adalora": self.probe(name)["adalora"]}

    @settings_of("probe.autolora")
    def autolora(self, name):
        """Settings of `probe autolora`."""
        entry = self.probe(name)
        training = {key: value for key, value in self._training(name).items() if key not in ("learning_rate", "weight_decay")}
        return {"rank": entry["rank"], "warmup": training, "autolora": entry["autolora"]}

    @settings_of("probe.full_warmup")
    def full_warmup(self, name):
        """Settings of `probe full-warmup`."""
        training = {key: value for key, value in self._training(name).items() if key != "learning_rate"}
        return {"warmup": training, "full": self.probe(name)["full"]}

    def _batches(self, name, kind):
        """(number of batches, batches a chunk) of a kind of chunked dumps."""
        if kind == "perturbation":
            entry = self.probe(name)["perturbation"]
            return entry["batches"], entry["batches_per_chunk"]
        entry = self.probe(name)["sensitivity"]
        return entry["partitions"], entry["batches_per_chunk"]

    def dumps(self, model, probe, criterion):
        """The files a criterion aggregates; none for random."""
        kind, folder = SOURCES[criterion], self._folder(model, probe)
        if kind is None:
            return []
        if kind in ("warmup", "adalora", "autolora"):
            return [f"{folder}/{kind}/manifest.json"]
        if kind == "outputs":
            return [f"{folder}/outputs.parquet"]
        batches, size = self._batches(probe, kind)
        return [f"{folder}/{kind}/chunk-{i:03d}.parquet" for i in range(-(-batches // size))]

    def measured_on(self, model, probe, criterion):
        """[manifest] of the training that a criterion's dumps were measured on, [] where they are not dumps of one."""
        warmup = WARMUPS.get(SOURCES[criterion])
        return [f"{self._folder(model, probe)}/{warmup}/manifest.json"] if warmup else []

    @settings_of("scores.aggregate")
    def scores(self, model, probe, criterion):
        """Settings of `scores aggregate`."""
        kind, extra = SOURCES[criterion], {}
        if criterion == "random":
            extra = {"seed": self.probe(probe)["sensitivity"]["seed"]}
        elif kind == "outputs":
            extra = {"batches": self.probe(probe)["lora_drop"]["batches"]}
        elif kind in WARMUPS:
            extra = {"batches": self._batches(probe, kind)[0]}
        return {"criterion": criterion, "model": model, "probe": probe, **extra}
