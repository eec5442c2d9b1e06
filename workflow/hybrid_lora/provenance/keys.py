"""Which key of the configuration a job's setting comes from: found by changing keys and asking the rules' Plan again."""

import copy
import re
from pathlib import Path

from hybrid_lora.config import Config, layers, loading

MOST = 60  # keys that are tried for one setting


class Keys:
    """Answers for one configuration, given as for `snakemake`."""

    def __init__(self, now, configfiles, assignments):
        self.now, self.assignments = now, assignments
        self.files = [loading.DEFAULT, *(file for file in configfiles if file != loading.DEFAULT)]
        self._leaves = list(_leaves(now.plan.values))
        self._found = {}

    def told(self, job, difference):
        """` [dotted.key in file]` for a difference of a setting, empty where it comes from no single key."""
        if difference.kind != "setting":
            return ""
        asked = (job.rule, *sorted(job.wildcards.items()), difference.what)
        if asked not in self._found:
            self._found[asked] = self._tell(job, difference.what)
        return self._found[asked]

    def _tell(self, job, setting):
        value = _at(job.settings, setting)
        name = re.sub(r"\[\d+\]$", "", setting).rsplit(".", 1)[-1]
        named = [path for path, leaf in self._leaves if path[-1] == name and leaf == value]
        tried = named + [path for path, leaf in self._leaves if path[-1] != name and leaf == value and isinstance(leaf, str)]
        sources = [path for path in tried[:MOST] if self._moves(job, setting, value, path)]
        if not sources and len(named) == 1 and "[" not in setting and not any(map(callable, job.raw.rule.params)):
            sources = named  # settings of a rule without wildcards are computed when the rules are read
        if len(sources) == 1:
            return f" [{layers.dotted(sources[0])} in {self._origin().of(sources[0])}]"
        run = self.now.plan.runs.get(job.wildcards.get("run"))
        return f" [{name} in {self.now.plan.values['runs']}]" if not sources and name in vars(run or object) else ""

    def _moves(self, job, setting, value, path):
        """Whether another value at `path` gives the job another value of the setting."""
        plan = self.now.plan
        values = copy.deepcopy(plan.values)
        place = values
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = _another(place[path[-1]])
        version = [plan.version] if hasattr(plan, "version") else []
        space = self.now.workflow.globals
        try:
            space["plan"] = type(plan)(Config(values, list(plan.runs.values())), plan.base, *version)
            params, _ = job.raw.rule.expand_params(job.raw.wildcards_dict, job.raw.input, job.raw.output, job.raw)
            return _at(params.get("settings", {}), setting) != value
        except Exception:  # such a value is not allowed there: says nothing
            return False
        finally:
            space["plan"] = plan

    def _origin(self):
        values = {}
        for file in self.files:
            values = layers.merge(values, layers.read_yaml(file))
        return layers.Origin(layers.merge(values, layers.command_line(self.assignments)), self.files, Path.cwd())


def _leaves(value, path=()):
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif path:
        yield path, value


def _at(settings, dotted):
    """Value at a dotted key such as rows[3].budget, None where there is none. Names may hold dots themselves."""
    for name, inner in settings.items() if isinstance(settings, dict) else []:
        if dotted == name:
            return inner
        rest = dotted.removeprefix(name)
        if rest != dotted and rest[0] == ".":
            return _at(inner, rest[1:])
        if rest != dotted and rest[0] == "[" and isinstance(inner, list):
            number, _, rest = rest[1:].partition("]")
            if int(number) < len(inner):
                return _at(inner[int(number)], rest.removeprefix(".")) if rest else inner[int(number)]
    return None


def _another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return [*value, *value, "x"] if isinstance(value, list) else 1
